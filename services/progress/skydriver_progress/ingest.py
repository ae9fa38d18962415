"""Batches of scanners' messages to decisions: many in one transaction, and no message at the cost of another.

``prepare`` checks and parses, without a transaction; ``decide`` is one transaction for all that are accepted. A message that is
rejected says why and holds up no other one; one that breaks the transaction is found by halving the batch.
"""

import asyncio
import time
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from skydriver_common.db.errors import fault_of
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs, system_chain
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model.commands import Context, PatchManifest, PutResult
from skydriver_common.model.events import Event
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_progress import messages
from skydriver_progress.decide.groups import decide_group, group_by_producer, reject_unknown_scan
from skydriver_progress.decide.rejections import decide_rejected_without_scan
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_progress.messages import Skymap
from skydriver_progress.reports import ReportCode, ReportRejection
from skydriver_progress.retention import Retention
from skydriver_progress.scan_token_verifier import ScanTokenVerifier

logger = structlog.get_logger(__name__)

YIELD_EVERY = 64
"""Messages or groups after which others get the event loop."""
MAX_CONTENT_BYTES = 8 * 1024 * 1024
"""Unpacked in one batch, one message beyond it at most: 1 kB can hold 1 MB. A thousand usual reports have half of it."""
_OFF_THE_LOOP_BYTES = 256 * 1024
_MAX_REMEMBERED = 1000


class Ingest:
    """Handles batches. Several may be prepared at the same time; they are decided one after the other."""

    def __init__(
        self, pool: Pool, notifier: Notifier, uow: UnitOfWork, tokens: ScanTokenVerifier, *, coalesces: bool, token_grace_s: float,
        retention: Retention,
    ) -> None:  # fmt: skip
        """coalesces: of the progress reports of a scan in one batch, write only the newest."""
        self._pool = pool
        self._notifier = notifier
        self._uow = uow
        self._tokens = tokens
        self._coalesces = coalesces
        self._token_grace_s = token_grace_s
        self._retention = retention
        self._recorded: set[str] = set()

    async def prepare(self, batch: Sequence[ReceivedMessage]) -> list[IncomingReport]:
        """Open and check them, parse what will be needed: from the first to the last, or as many as may be unpacked at once.

        Raises TryLater when that cannot be done now.
        """
        items: list[IncomingReport] = []
        content_bytes = 0
        for count, message in enumerate(batch, 1):
            item = await self._open(message)
            items.append(item)
            content_bytes += len(item.envelope.plain) if item.envelope is not None else 0
            if content_bytes > MAX_CONTENT_BYTES:
                break
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        for count, group in enumerate(group_by_producer(items), 1):
            for item in reversed(group):
                await self._parse_safely(item)
                if self._coalesces and isinstance(item.report, PatchManifest) and item.report.progress:
                    break  # those before it are parsed only if that turns out to be needed
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return items

    async def decide(self, items: Sequence[IncomingReport]) -> list[IncomingReport]:
        """Decide on all of them in one transaction; returns the rejected ones. Raises TryLater, and nothing else."""
        rejections = [item.rejection for item in items]
        try:
            await self._decide(items)
        except TryLater:
            _reset_rejections(items, rejections)
            await self._store_again(items)
            raise
        except Exception as error:
            _reset_rejections(items, rejections)
            if (fault := fault_of(error)) is not None:
                raise fault from error
            if len(items) > 1:
                logger.warning("batch.split", items=len(items), error=type(error).__name__)
                half = len(items) // 2
                return [*await self.decide(items[:half]), *await self.decide(items[half:])]
            _reject_as_bug(items[0], error)
        return [item for item in items if item.rejection is not None]

    async def _open(self, message: ReceivedMessage) -> IncomingReport:
        key = message.key
        kind, scan_id = messages.addressed_to(key)
        item = IncomingReport(message, kind, scan_id)
        if message.size > len(message.body):
            item.rejection = messages.too_large(key)
            return item
        opened = messages.open_envelope(key, message.headers, message.body, message.content_encoding)
        if isinstance(opened, ReportRejection):
            item.rejection = opened
            return item
        subject = await self._tokens.subject(opened.token, opened.scan_id)
        if isinstance(subject, ReportRejection):
            item.rejection = subject
            return item
        message_id = f"{opened.producer}:{opened.sequence}"
        item.envelope = opened
        item.context = Context(command_id=message_id, correlation_id=message.correlation_id or message_id, actor=subject)
        return item

    async def _parse_safely(self, item: IncomingReport) -> None:
        try:
            await self._parse(item)
        except TryLater:
            raise
        except Exception as error:  # noqa: BLE001  (a bug that this message meets must not stop the others)
            _reject_as_bug(item, error)

    async def _parse(self, item: IncomingReport) -> None:
        envelope = item.envelope
        if envelope is None:
            return
        is_large = len(envelope.plain) > _OFF_THE_LOOP_BYTES
        parsed = await asyncio.to_thread(messages.parse, envelope) if is_large else messages.parse(envelope)
        if isinstance(parsed, Skymap):
            item.skymap = parsed.content
            item.report = await self._store(parsed)
        elif isinstance(parsed, ReportRejection):
            item.rejection = parsed
        else:
            item.report = parsed

    async def _store(self, skymap: Skymap) -> PutResult:
        digest = await blobs.put(self._pool, skymap.content)
        return PutResult(
            scan_id=skymap.scan_id, digest=digest, size_bytes=len(skymap.content), is_final=skymap.is_final,
            producer=skymap.producer, sequence=skymap.sequence,
        )  # fmt: skip

    async def _store_again(self, items: Sequence[IncomingReport]) -> None:
        """Store the skymaps again: a crash of the database may have lost what was not on its disk yet. Raises TryLater."""
        for item in items:
            if item.skymap is None:
                continue
            try:
                await blobs.put(self._pool, item.skymap)
            except TryLater:
                raise
            except Exception as error:  # noqa: BLE001  (what is wrong with this skymap must not stop the others)
                _reject_as_bug(item, error)
                item.skymap = None

    async def _decide(self, items: Sequence[IncomingReport]) -> None:
        scan_ids = sorted({item.scan_id for item in items if item.scan_id is not None})
        batch = uuid.uuid4().hex
        context = Context(command_id=f"batch:{batch}", correlation_id=batch, actor="progress")
        without_scan: list[IncomingReport] = []
        async with self._uow.on_scans(context, scan_ids) as tx:
            now = tx.now.timestamp()
            for group in group_by_producer(items):
                scan_id = group[0].scan_id
                scan = tx.scan(scan_id) if scan_id is not None else None
                if scan is None or scan_id is None:
                    reject_unknown_scan(group)
                    without_scan.extend(group)
                    continue
                if scan.progress is None:
                    self._retention.schedule_compaction(tx, scan_id)
                decide_group(
                    _ScanInTransaction(tx, scan_id), group, now, coalesces=self._coalesces, token_grace_s=self._token_grace_s
                )
        for item in without_scan:
            await self._record_without_scan(item)

    async def _record_without_scan(self, item: IncomingReport) -> None:
        """Record a rejection that belongs to no scan: once an hour for each kind and code, whichever replica meets it."""
        assert item.rejection is not None
        command_id, event = decide_rejected_without_scan(item.kind, item.rejection, time.time())
        if command_id in self._recorded:
            return
        context = Context(command_id=command_id, correlation_id=command_id, actor="progress")
        await system_chain.record(self._pool, self._notifier, "progress", context, event)
        if len(self._recorded) > _MAX_REMEMBERED:
            self._recorded.clear()
        self._recorded.add(command_id)


@dataclass(frozen=True, slots=True)
class _ScanInTransaction:
    """The changes of one scan within a transaction."""

    _tx: Transaction
    _scan_id: str

    @property
    def scan(self) -> Scan:
        scan = self._tx.scan(ScanId(self._scan_id))
        assert scan is not None
        return scan

    def append(self, events: Sequence[Event], *, cause: IncomingReport, needed_blob: str | None = None) -> None:
        if needed_blob is not None:
            self._tx.needs_blob(needed_blob)
        self._tx.append(ScanId(self._scan_id), events, context=cause.context)


def _reject_as_bug(item: IncomingReport, error: Exception) -> None:
    """Reject a message whose handling met a bug, with the traceback. To be called where the error was caught."""
    logger.exception("report.failed", kind=item.kind, scan_id=item.scan_id)
    item.rejection = ReportRejection(ReportCode.FAILED, f"internal error: {type(error).__name__}")
    item.trace = traceback.format_exc(limit=-8)


def _reset_rejections(items: Sequence[IncomingReport], rejections: Sequence[ReportRejection | None]) -> None:
    """Undo what was decided in a transaction that failed."""
    for item, rejection in zip(items, rejections, strict=True):
        item.rejection = rejection
