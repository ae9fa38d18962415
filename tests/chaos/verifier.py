"""The verifier: when everything is back, holds the log, the views, the bus and the work folders against what was acknowledged."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import aio_pika
import asyncpg

from skydriver_common.bus import topology
from skydriver_common.bus.dead_letter import letter_of
from skydriver_common.db.pool import Connection
from skydriver_common.log import blobs
from skydriver_common.model.commands import COMMAND_TYPES
from skydriver_common.model.ids import digest_of
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify as verify_chains
from tests.chaos import poison
from tests.chaos.driver import skymap
from tests.chaos.environment import ChaosEnvironment
from tests.chaos.ledger import Ledger, ScanRecord
from tests.support.waiting import until

_QUIET_LIMIT_S = 300.0
"""What a lost delivery should have started is found by looking once a minute."""
_OF_THE_RELEASE_BEFORE = (
    "the deadline had passed before the work began",
    "the deadline passed while the work was in hand; nothing was changed",
    "expired in its queue",
    "ReadOnlySQLTransactionError",
)
"""What it makes of late commands and of a read-only database; this release drops and counts the ones, and waits for the other."""
_UNSETTLED = {
    "run without a workflow": "launch_state = 'launched' AND NOT is_deleted AND NOT has_final_result"
    " AND ewms_workflow_id = 'not-yet-requested' AND state NOT LIKE 'STOPPED%'",
    "are over and their workflow lives": "(is_deleted OR has_final_result OR launch_state IN ('abandoned', 'failed'))"
    " AND deactivated IS NULL AND ewms_workflow_id <> 'not-yet-requested'",
}
"""What must come true in the end whatever was lost on the way, by what the manifests say."""


@dataclass(slots=True)
class Finding:
    """One question, how many things were looked at, and what was found wrong. is_loss: something acknowledged is not there."""

    question: str
    looked_at: int = 0
    wrong: list[str] = field(default_factory=list)
    is_loss: bool = False
    note: str = ""


async def verify(field: ChaosEnvironment, ledger: Ledger, *, quiet_within_s: float = _QUIET_LIMIT_S) -> list[Finding]:
    """Wait until nothing is under way any more, then answer every question."""
    connection = await asyncpg.connect(field.database_url, command_timeout=120)
    try:
        waiting = await _quiet(connection, field.amqp_url, quiet_within_s)
        log = await _log(connection)
        return [
            Finding("nothing is left under way", 1, waiting),
            Finding("promises kept in every answer", ledger.requests, list(ledger.complaints)),
            await _requests(connection, ledger, log),
            _refused(ledger, log),
            await _reports(ledger, log),
            await _results(connection, ledger, log),
            _deletions(ledger, log),
            _launches(field, log),
            await _chains(connection),
            await _views(connection),
            await _dead_letters(field.amqp_url),
        ]
    finally:
        await connection.close()


@dataclass(slots=True)
class _Log:
    """The log by scan: (type, data) in order of version."""

    scans: dict[str, list[tuple[str, dict[str, object]]]]

    def of(self, scan_id: str | None, type_: str) -> list[dict[str, object]]:
        return [data for kind, data in self.scans.get(scan_id or "", []) if kind == type_]


async def _log(connection: Connection) -> _Log:
    scans: dict[str, list[tuple[str, dict[str, object]]]] = {}
    for row in await connection.fetch("SELECT scan_id, type, data FROM event_log ORDER BY scan_id, version"):
        scans.setdefault(row["scan_id"], []).append((row["type"], json.loads(row["data"])))
    return _Log({scan_id: history for scan_id, history in scans.items() if history[0][0] == "scan.requested"})


async def _quiet(connection: Connection, amqp_url: str, within_s: float) -> list[str]:
    """Wait until relay, queues and due work are done; what is not is told."""
    waiting: list[str] = []

    async def is_quiet() -> bool:
        nonlocal waiting
        waiting = await _under_way(connection, amqp_url)
        return not waiting

    with suppress(AssertionError):
        await until(is_quiet, limit_s=within_s, poll_s=0.3)
    return waiting


async def _under_way(connection: Connection, amqp_url: str) -> list[str]:
    behind = await connection.fetchval(
        "SELECT count(*) FROM event_log l"
        " WHERE NOT EXISTS (SELECT FROM relay_cursors c WHERE (l.xid, l.position) <= (c.xid, c.position))"
    )
    found = [f"{behind} events are not published"] if behind else []
    for row in await connection.fetch(
        "SELECT kind, count(*) AS n FROM due_work WHERE due_at < now() + interval '1 minute' AND kind IN ('launch', 'stop', 'relaunch')"
        " GROUP BY kind"
    ):
        found.append(f"{row['n']} pieces of due work '{row['kind']}'")
    for what, condition in _UNSETTLED.items():
        if number := await connection.fetchval(f"SELECT count(*) FROM manifests WHERE {condition}"):
            found.append(f"{number} scans {what}")
    bus = await aio_pika.connect(amqp_url)
    async with bus:
        channel = await bus.channel()
        for name in _queues():
            try:
                declared = await channel.declare_queue(name, passive=True)
            except aio_pika.exceptions.ChannelClosed:
                channel = await bus.channel()
                continue
            if declared.declaration_result.message_count:
                found.append(f"{declared.declaration_result.message_count} messages in {name}")
    return found


def _queues() -> Iterable[str]:
    yield from (topology.command_queue(key).name for key in COMMAND_TYPES)
    for consumer, events in topology.EVENT_CONSUMERS.items():
        yield from (topology.event_queue(consumer, event.type).name for event in events)
    yield from (topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)


async def _requests(connection: Connection, ledger: Ledger, log: _Log) -> Finding:
    finding = Finding("every request answered 200 is there, once", is_loss=True)
    by_key: Counter[str] = Counter()
    rescans_of: Counter[str] = Counter()
    for history in log.scans.values():
        classifiers = history[0][1]["classifiers"]
        assert isinstance(classifiers, dict)
        if "rescan" in classifiers:
            rescans_of[classifiers["origin_scan_id"]] += 1
        else:
            by_key[classifiers.get("chaos", "")] += 1
    for record in ledger.scans:
        if by_key[record.key] > 1:
            finding.wrong.append(f"{record.key} was stored {by_key[record.key]} times")
        if record.scan_id is None:
            continue
        finding.looked_at += 1
        requested = log.of(record.scan_id, "scan.requested")
        if len(requested) != 1:
            finding.wrong.append(f"scan {record.scan_id} was answered 200 and has {len(requested)} requests in the log")
            continue
        try:
            if await blobs.get(connection, str(requested[0]["event_digest"])) != record.event:
                finding.wrong.append(f"scan {record.scan_id} has another i3 event")
        except blobs.BlobMissing:
            finding.wrong.append(f"scan {record.scan_id} has lost its i3 event")
        if record.rescan_id is not None and rescans_of[record.scan_id] != 1:
            finding.wrong.append(f"scan {record.scan_id} was scanned again {rescans_of[record.scan_id]} times")
        if record.rescan_id is not None and not log.of(record.rescan_id, "scan.requested"):
            finding.wrong.append(f"the rescan {record.rescan_id} was answered 200 and is not there")
    return finding


def _refused(ledger: Ledger, log: _Log) -> Finding:
    finding = Finding("nothing answered 4xx left a trace")
    refused = set(ledger.refused_keys)
    reports = {mark for record in ledger.scans for mark in record.refused_reports}
    finding.looked_at = len(refused) + len(reports)
    for scan_id, history in log.scans.items():
        classifiers = history[0][1]["classifiers"]
        assert isinstance(classifiers, dict)
        if classifiers.get("chaos") in refused:
            finding.wrong.append(f"the refused request {classifiers['chaos']} is stored as scan {scan_id}")
        for mark in _marks(log, scan_id) & reports:
            finding.wrong.append(f"the refused report {mark} is stored in scan {scan_id}")
    return finding


def _marks(log: _Log, scan_id: str | None) -> set[str]:
    return {str(data["progress"]["summary"]) for data in log.of(scan_id, "scan.progress-reported")}  # type: ignore[index]


async def _reports(ledger: Ledger, log: _Log) -> Finding:
    finding = Finding("every acknowledged report is in the log", is_loss=True)
    for record in ledger.scans:
        marks = _marks(log, record.scan_id)
        finding.looked_at += len(record.reports)
        finding.wrong += [f"the report {mark} is not in scan {record.scan_id}" for mark in record.reports if mark not in marks]
    return finding


async def _results(connection: Connection, ledger: Ledger, log: _Log) -> Finding:
    finding = Finding("every acknowledged result is in the log, the final one stands", is_loss=True)
    for record in ledger.scans:
        received = log.of(record.scan_id, "scan.result-received")
        digests = {str(data["digest"]) for data in received}
        for mark in [*record.results, *([record.final] if record.final else [])]:
            finding.looked_at += 1
            if not digests & _digests(mark):
                finding.wrong.append(f"the result {mark} is not in scan {record.scan_id}")
        if record.final is not None:
            finding.wrong += await _final_stands(connection, record)
        if sum(data["is_final"] is True for data in received) > 1:
            finding.wrong.append(f"scan {record.scan_id} has more than one final result")
    return finding


async def _final_stands(connection: Connection, record: ScanRecord) -> list[str]:
    assert record.final is not None
    row = await connection.fetchrow("SELECT digest, is_final FROM results WHERE scan_id = $1", record.scan_id)
    if row is None or not row["is_final"] or row["digest"] not in _digests(record.final):
        return [f"the final result of scan {record.scan_id} does not stand"]
    try:
        await blobs.get(connection, row["digest"])
    except blobs.BlobMissing:
        return [f"the skymap of scan {record.scan_id} is lost"]
    return []


def _digests(mark: str) -> set[str]:
    """Of a skymap's bytes: as the driver writes it over REST, and as the client library does."""
    content = skymap(mark)
    return {str(digest_of(json.dumps(content, separators=separators).encode())) for separators in (None, (",", ":"))}


def _deletions(ledger: Ledger, log: _Log) -> Finding:
    finding = Finding("every acknowledged deletion is in the log", is_loss=True)
    for record in ledger.scans:
        deleted = [record.scan_id] * record.is_deleted + [record.rescan_id] * record.rescan_is_deleted
        finding.looked_at += len(deleted)
        finding.wrong += [
            f"the deletion of scan {scan_id} is lost" for scan_id in deleted if not log.of(scan_id, "scan.deleted")
        ]
    return finding


def _launches(field: ChaosEnvironment, log: _Log) -> Finding:
    """Starts are what the scanners themselves wrote; a start more than the log explains is a second launch."""
    finding = Finding("no scan was launched twice")
    for scan_id in log.scans:
        launched, restarts = log.of(scan_id, "scan.launched"), log.of(scan_id, "scan.scanner-restarted")
        kinds = [kind for kind, _ in log.scans[scan_id]]
        is_deleted = "scan.deleted" in kinds
        if len(launched) > 1:
            finding.wrong.append(f"scan {scan_id} has {len(launched)} launches in the log")
        if is_deleted and "scan.launched" in kinds[kinds.index("scan.deleted") :]:
            finding.wrong.append(f"scan {scan_id} was launched after it was deleted")
        try:
            lines = (field.work_dir / scan_id / "starts").read_text().splitlines()
        except FileNotFoundError:
            if launched and not is_deleted:  # else it was ended before it could say anything
                finding.wrong.append(f"scan {scan_id} was launched, says the log, and was never started")
            continue
        finding.looked_at += 1
        if "scan.launch-attempted" not in kinds:
            finding.wrong.append(f"scan {scan_id} was started, and the log does not know that it was taken")
        if not launched and not is_deleted and not any(data["is_final"] for data in log.of(scan_id, "scan.result-received")):
            # one that ended while nobody could note its launch waits no more: there is nothing left to launch
            finding.wrong.append(f"scan {scan_id} was started, and its launch is not in the log")
        if any(line.endswith("twin") for line in lines):
            finding.wrong.append(f"scan {scan_id} had two scanner servers at a time")
        # a scanner may die before its launch is noted: then each further attempt explains one more start
        attempts = log.of(scan_id, "scan.launch-attempted")
        if len(lines) > max(1, len(attempts)) + len(restarts):
            finding.wrong.append(
                f"scan {scan_id} was started {len(lines)} times, with {len(attempts)} attempts and {len(restarts)} restarts"
            )
    return finding


async def _chains(connection: Connection) -> Finding:
    report = await verify_chains(connection)
    return Finding(
        "hash chains are whole",
        report.events,
        [f"scan {found.scan_id}, version {found.version}: {found.what}" for found in report.breaks],
    )


async def _views(connection: Connection) -> Finding:
    found = await rebuild.check(connection)
    return Finding(
        "views are what the log says", found.events, [f"{one.view} {one.key}: {one.what}" for one in found.differences]
    )


async def _dead_letters(amqp_url: str) -> Finding:
    """Looked at, and left where they are. Nothing that chaos does is a message's own fault, and late commands make none, but with
    the release before."""
    finding = Finding("there are no dead letters")
    reasons: Counter[str] = Counter()
    bus = await aio_pika.connect(amqp_url)
    async with bus:
        channel = await bus.channel()
        queue = await channel.get_queue(topology.DEAD_LETTER_QUEUE)
        while (message := await queue.get(fail=False, no_ack=False)) is not None:
            letter = letter_of(message)
            finding.looked_at += 1
            if poison.MARK in message.body:
                reasons["poison"] += 1
                continue
            reasons[letter.reason] += 1
            if letter.reason in _OF_THE_RELEASE_BEFORE:
                continue
            finding.wrong.append(f"{letter.key} {letter.message_id}: {letter.reason}: {letter.traceback}")
    finding.note = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
    return finding
