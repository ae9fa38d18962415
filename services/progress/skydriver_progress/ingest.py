"""Messages of the scanners' exchange to decisions: many in one transaction, none of them at the cost of another.

``prepare`` checks and parses, without the database; ``decide`` is one transaction for all that are fit. A message that is
refused says why and lies in nobody's way; one that breaks the transaction is found by halving the batch.
"""

import asyncio
import re
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from skydriver_common.bus import dead_letter
from skydriver_common.db.errors import fault_of
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs, system_chain
from skydriver_common.log.unit_of_work import Transaction, UnitOfWork
from skydriver_common.model.commands import Context, PatchManifest, PutResult
from skydriver_common.model.events import UnknownScanReportRefused
from skydriver_common.model.rejections import Rejection
from skydriver_common.model.scan import Scan
from skydriver_common.model.scan_tokens import token_has_ended
from skydriver_progress import messages
from skydriver_progress.decide import REFUSAL_REPEAT_S, Refusal, Report, decide_refused, decide_report, was_sent_in_time
from skydriver_progress.messages import Envelope, Skymap, parse
from skydriver_progress.retention import Retention
from skydriver_progress.scan_token_verifier import ENDED, ScanTokens
from skydriver_scanner.protocol import PROGRESS

logger = structlog.get_logger(__name__)

UNKNOWN, FAILED = "scan-unknown", "failed"
_YIELD_EVERY = 64
_FINISHED = re.compile(rb'"finished"\s*:\s*true|\\u00')
"""In the bytes of a report that says finished; or the word is written in another way."""
_OFF_THE_LOOP_BYTES = 256 * 1024
_MOST_CONTENT_BYTES = 8 * 1024 * 1024
"""Unpacked in one batch, one message beyond it at most: 1 kB can hold 1 MB. A thousand usual reports have half of it."""


@dataclass(slots=True, eq=False)
class Message:
    """A message as it came from the broker. size: of its body as sent; a body that is too large is cut at once."""

    key: str
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    content_encoding: str | None
    message_id: str | None
    correlation_id: str | None
    size: int
    tag: int
    is_redriven: bool = False
    """From the dead letters."""

    @property
    def failed_at(self) -> float | None:
        """When a message from the dead letters failed first, in Unix seconds, 0.0: unknown; None: it is not from there."""
        return dead_letter.first_failed_at(self.headers) if self.is_redriven else None


@dataclass(slots=True, eq=False)
class IncomingReport:
    """A message on its way: either with a report and whose it is, or with a refusal, or done."""

    message: Message
    kind: str
    scan_id: str | None
    envelope: Envelope | None = None
    report: Report | None = None
    context: Context | None = None
    refusal: Refusal | None = None
    trace: str = ""
    skymap: bytes | None = field(default=None, repr=False)

    def read(self) -> Report | None:
        """The report, parsed now if it was not needed before. None: it is refused, or says nothing."""
        if self.report is None and self.refusal is None and self.envelope is not None and self.kind == PROGRESS:
            parsed = parse(self.envelope)
            if isinstance(parsed, Refusal):
                self.refusal = parsed
            elif not isinstance(parsed, Skymap):
                self.report = parsed
        return None if self.refusal is not None else self.report

    def says_finished(self) -> bool:
        """Whether it is a progress report that says finished: parsed only if its bytes may say so."""
        if self.kind != PROGRESS or self.envelope is None or _FINISHED.search(self.envelope.plain) is None:
            return False
        report = self.read()
        return isinstance(report, PatchManifest) and bool(report.progress and report.progress["processing_stats"]["finished"])

    def fails(self, error: Exception) -> None:
        """Handling it meets a bug: it is refused, with the traceback. Called where the error was caught."""
        logger.exception("report.failed", kind=self.kind, scan_id=self.scan_id)
        self.refusal = Refusal(FAILED, f"handling it fails: {type(error).__name__}")
        self.trace = traceback.format_exc(limit=-8)


class Ingest:
    """Handles batches. Several may be prepared at once, they are decided one after the other."""

    def __init__(
        self, pool: Pool, bell: Notifier, uow: UnitOfWork, tokens: ScanTokens, *, coalesces: bool, token_grace_s: float,
        retention: Retention,
    ) -> None:  # fmt: skip
        """coalesces: of the progress reports of a scan in one batch, write only the newest."""
        self._pool = pool
        self._bell = bell
        self._uow = uow
        self._tokens = tokens
        self._coalesces = coalesces
        self._token_grace_s = token_grace_s
        self._retention = retention
        self._told: set[str] = set()

    async def prepare(self, batch: Sequence[Message]) -> list[IncomingReport]:
        """Open and check them, parse what will be needed: from the first to the last, or as many as may be unpacked at once.

        Raises TryLater when that can't be done now.
        """
        items: list[IncomingReport] = []
        content_bytes = 0
        for count, message in enumerate(batch, 1):
            item = await self._opened(message)
            items.append(item)
            content_bytes += len(item.envelope.plain) if item.envelope is not None else 0
            if content_bytes > _MOST_CONTENT_BYTES:
                break
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        for count, group in enumerate(_by_sender(items), 1):
            for item in reversed(group):
                await self._parsed(item)
                if self._coalesces and isinstance(item.report, PatchManifest) and item.report.progress:
                    break  # those before it are looked at only if that turns out to be needed
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return items

    async def decide(self, items: Sequence[IncomingReport]) -> list[IncomingReport]:
        """Decide on all of them in one transaction; returns the refused ones. Raises TryLater, and nothing else."""
        refusals = [item.refusal for item in items]
        try:
            await self._decide(items)
        except TryLater:
            _reset_refusals(items, refusals)
            for item in items:
                if item.skymap is not None:  # a crash of the database may have lost what the disk had not got yet
                    await blobs.put(self._pool, item.skymap)
            raise
        except Exception as error:
            _reset_refusals(items, refusals)
            if (fault := fault_of(error)) is not None:
                raise fault from error
            if len(items) > 1:
                logger.warning("batch.split", items=len(items), error=type(error).__name__)
                half = len(items) // 2
                return [*await self.decide(items[:half]), *await self.decide(items[half:])]
            items[0].fails(error)
        return [item for item in items if item.refusal is not None]

    async def _opened(self, message: Message) -> IncomingReport:
        key = message.key
        kind, scan_id = messages.addressed_to(key)
        item = IncomingReport(message, kind, scan_id)
        if message.size > len(message.body):
            item.refusal = messages.too_large(key)
            return item
        opened = messages.open_envelope(key, message.headers, message.body, message.content_encoding)
        if isinstance(opened, Refusal):
            item.refusal = opened
            return item
        subject = await self._tokens.subject(opened.token, opened.scan_id)
        if isinstance(subject, Refusal):
            item.refusal = subject
            return item
        place = f"{opened.producer}:{opened.sequence}"
        item.envelope = opened
        item.context = Context(command_id=place, correlation_id=message.correlation_id or place, actor=subject)
        return item

    async def _parsed(self, item: IncomingReport) -> None:
        try:
            await self._parse(item)
        except TryLater:
            raise
        except Exception as error:  # noqa: BLE001  (a bug that this message meets must not stop the others)
            item.fails(error)

    async def _parse(self, item: IncomingReport) -> None:
        envelope = item.envelope
        if envelope is None:
            return
        big = len(envelope.plain) > _OFF_THE_LOOP_BYTES
        parsed = await asyncio.to_thread(messages.parse, envelope) if big else messages.parse(envelope)
        if isinstance(parsed, Skymap):
            item.skymap = parsed.content
            item.report = await self._store(parsed)
        elif isinstance(parsed, Refusal):
            item.refusal = parsed
        else:
            item.report = parsed

    async def _store(self, skymap: Skymap) -> PutResult:
        digest = await blobs.put(self._pool, skymap.content)
        return PutResult(
            scan_id=skymap.scan_id, digest=digest, size_bytes=len(skymap.content), is_final=skymap.is_final,
            producer=skymap.producer, sequence=skymap.sequence,
        )  # fmt: skip

    async def _decide(self, items: Sequence[IncomingReport]) -> None:
        scan_ids = sorted({item.scan_id for item in items if item.scan_id is not None})
        batch = uuid.uuid4().hex
        context = Context(command_id=f"batch:{batch}", correlation_id=batch, actor="progress")
        strange: list[IncomingReport] = []
        async with self._uow.on_scans(context, scan_ids) as tx:
            now = tx.now.timestamp()
            for group in _by_sender(items):
                self._decide_group(tx, group, now, strange)
        for item in strange:
            await self._tell_of_a_stranger(item)

    def _decide_group(
        self, tx: Transaction, group: Sequence[IncomingReport], now: float, strange: list[IncomingReport]
    ) -> None:
        """Items of one scan and one sender, in their order."""
        scan_id = group[0].scan_id
        scan = tx.scan(scan_id) if scan_id is not None else None
        if scan is None or scan_id is None:
            for item in group:
                item.refusal = item.refusal or Refusal(UNKNOWN, "no such scan is known")
            strange.extend(group)
            return
        if scan.progress is None:
            self._retention.begins(tx, scan_id)
        if token_has_ended(scan, now, self._token_grace_s):
            for item in group:
                if item.refusal is None and not self._came_in_time(scan, item):
                    item.refusal = Refusal(ENDED, "the scan has ended, and its token with it")
        fit = [item for item in group if item.refusal is None]
        newest = self._take_newest(tx, fit, now) if self._coalesces else None
        is_complete = scan.event_metadata is not None and scan.scan_metadata is not None
        for item in fit:
            # what others say of their progress is superseded; their metadata counts, while there is none
            if item is newest or (newest is not None and item.report is None and is_complete):
                continue
            report = item.read()
            if report is not None:
                self._take(tx, item, report if newest is None else _without_progress(report), now)
        for item in group:
            if item.refusal is not None:
                self._tell(tx, item, scan_id, now)

    def _came_in_time(self, scan: Scan, item: IncomingReport) -> bool:
        """Whether a message that is handled after the end of its scan's token was sent before, or has been with us since then."""
        failed_at = item.message.failed_at
        if failed_at and not token_has_ended(scan, failed_at, self._token_grace_s):
            return True
        place, report = item.envelope, item.report
        is_final = isinstance(report, PutResult) and report.is_final
        return place is not None and was_sent_in_time(scan, item.kind, place.producer, place.sequence, is_final=is_final)

    def _take_newest(self, tx: Transaction, group: Sequence[IncomingReport], now: float) -> IncomingReport | None:
        """Decide on the newest progress report that is as it must be; None when there is none.

        One that says finished stands, whatever comes after it: so the newest of those is taken, if there is one.
        """
        finished = [item for item in group if item.says_finished()]
        for item in (*reversed(finished), *reversed(group)):
            report = item.read() if item.kind == PROGRESS else None
            if isinstance(report, PatchManifest) and report.progress and self._take(tx, item, report, now):
                return item
        return None

    def _take(self, tx: Transaction, item: IncomingReport, report: Report, now: float) -> bool:
        """Decide on one report; False when it is refused."""
        scan = tx.scan(report.scan_id)
        assert scan is not None
        match decide_report(scan, report, now, failed_at=item.message.failed_at):
            case Rejection() as no:
                item.refusal = Refusal(str(no.code), no.reason)
                return False
            case events:
                if events and isinstance(report, PutResult):
                    tx.needs_blob(report.digest)
                tx.append(report.scan_id, events, context=item.context)
                return True

    def _tell(self, tx: Transaction, item: IncomingReport, scan_id: str, now: float) -> None:
        """Make the refusal an event of the scan, if it is not one already."""
        scan = tx.scan(scan_id)
        assert scan is not None
        assert item.refusal is not None
        tx.append(scan_id, decide_refused(scan, item.kind, item.refusal, now), context=item.context)

    async def _tell_of_a_stranger(self, item: IncomingReport) -> None:
        """Record a refusal that belongs to no scan: once an hour for each kind and code, whichever replica meets it."""
        assert item.refusal is not None
        refusal = item.refusal
        once = f"refused:{item.kind}:{refusal.code}:{int(time.time() // REFUSAL_REPEAT_S)}"
        if once in self._told:
            return
        fact = UnknownScanReportRefused(kind=item.kind, code=refusal.code, reason=refusal.reason)
        context = Context(command_id=once, correlation_id=once, actor="progress")
        await system_chain.record(self._pool, self._bell, "progress", context, fact)
        if len(self._told) > 1000:
            self._told.clear()
        self._told.add(once)


def _reset_refusals(items: Sequence[IncomingReport], refusals: Sequence[Refusal | None]) -> None:
    """What was decided in a transaction that failed does not count."""
    for item, refusal in zip(items, refusals, strict=True):
        item.refusal = refusal


def _without_progress(report: Report) -> Report:
    return replace(report, progress=None) if isinstance(report, PatchManifest) else report


def _by_sender(items: Sequence[IncomingReport]) -> list[list[IncomingReport]]:
    """Items of one scan and one producer together, in order of their sequence; groups in order of their first item."""
    groups: dict[tuple[str | None, str], list[IncomingReport]] = {}
    for item in items:
        producer = item.envelope.producer if item.envelope is not None else ""
        groups.setdefault((item.scan_id, producer), []).append(item)
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=_sequence)
    return list(groups.values())


def _sequence(item: IncomingReport) -> int:
    return item.envelope.sequence if item.envelope is not None else -1
