"""Walking the hash chains: the first broken link of each scan, and whether the views stand on the newest ones.

Beyond the hashes, which cover neither a place in the log nor, of what was compacted, the content: links stand in the order in which
readers see them, and contents are gone only as far as the scan's history says that they were compacted.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection
from skydriver_common.model import event_codec
from skydriver_common.model.events import SYSTEM_CHAIN, ProgressCompacted
from skydriver_ops.eventlog.chains import PAGE, ChainBreak, chain_break, chains, chains_since, find_break, sql
from skydriver_ops.eventlog.selection import ChainedEvent


@dataclass(slots=True)
class Report:
    """What a walk has found: the first break of each scan, in order of scan."""

    events: int = 0
    scans: int = 0
    breaks: list[ChainBreak] = field(default_factory=list)


class ChainVerifier:
    """Checks links that come ordered by scan and version. Feed it pages, then ``leave``.

    Nothing is kept but the last link, and of the scan it is at the versions whose content was compacted.
    """

    def __init__(self) -> None:
        self.report = Report()
        self._scan_id = ""
        self._version = 0
        self._hash = event_codec.GENESIS
        self._place = (0, 0)
        self._break: ChainBreak | None = None
        self._compacted: list[ChainedEvent] = []
        self._compacted_before = self._max_compacted = 0

    def begins(self, one: ChainedEvent) -> bool:
        """Whether this link is the first of a scan that the walk sees."""
        return one.event.scan_id != self._scan_id

    def begin_scan(self, one: ChainedEvent, prev_hash: bytes | None, *, expected: int = 1) -> None:
        """Begin a scan with this link. prev_hash: of the link before it; None: it is missing, ``expected`` should be here."""
        self.finish_scan()
        self.report.scans += one.event.scan_id != SYSTEM_CHAIN
        self._scan_id = one.event.scan_id
        self._version = one.event.version - 1 if prev_hash is not None else expected - 1
        self._hash = prev_hash if prev_hash is not None else event_codec.GENESIS

    def check(self, one: ChainedEvent) -> None:
        """Check one link against the one before it."""
        self.report.events += 1
        if self._break is not None:
            return
        self._break = find_break(one, self._version, self._hash)
        self._version, self._hash = one.event.version, one.hash
        place, before = (int(one.xid), one.event.position), self._place
        self._place = place
        if self._break is None and place <= before:
            self._break = chain_break(one, "out of order: positioned before the event that precedes it in its chain")
        elif event_codec.is_compacted(one.event.data):
            self._compacted.append(one)
        elif self._break is None and one.event.type == ProgressCompacted.type:
            said = event_codec.decode(one.event.data)
            self._compacted_before = max(self._compacted_before, said["before_version"])
            self._max_compacted += said["payloads"]

    def finish_scan(self) -> None:
        """No more links of this scan will come."""
        if self._break is None:
            covered = [one for one in self._compacted if one.event.version < self._compacted_before]
            if len(covered) < len(self._compacted):
                self._break = chain_break(self._compacted[len(covered)], "payload removed without a compaction event")
            elif len(covered) > self._max_compacted:
                what = f"{len(covered)} payloads are missing, but only {self._max_compacted} were compacted"
                self._break = chain_break(covered[-1], what)
        if self._break is not None:
            self.report.breaks.append(self._break)
        self._break, self._place = None, (0, 0)
        self._compacted, self._compacted_before, self._max_compacted = [], 0, 0


async def verify(connection: Connection, *, since: int = 0, on_progress: Callable[[int], None] = lambda _: None) -> Report:
    """Walk all chains, or their links from a position on. told: called with the number of events so far.

    No statement and no snapshot lasts longer than a page, so that the walk holds up neither clean-up nor the relay. Raises TryLater.
    """
    walk = ChainVerifier()
    with database_faults():
        async for page in chains_since(connection, since) if since else chains(connection):
            for one in page:
                if walk.begins(one):
                    walk.begin_scan(one, await _hash_before(connection, one), expected=one.event.version - 1 if since else 1)
                walk.check(one)
            on_progress(walk.report.events)
        walk.finish_scan()
    known = {found.scan_id for found in walk.report.breaks}
    walk.report.breaks += [found async for found in _heads_that_differ(connection) if found.scan_id not in known]
    walk.report.breaks.sort(key=lambda found: found.scan_id)
    return walk.report


async def _heads_that_differ(connection: Connection) -> AsyncIterator[ChainBreak]:
    """Scans whose manifest was not folded from their newest link; both are compared in one statement. Raises TryLater."""
    scan_id = ""
    while True:
        with database_faults():
            rows = [row async for row in sql.heads_beside_manifests(connection, scan_id=scan_id, most=PAGE)]
        for row in rows:
            if not row["is_same"]:
                what = f"its manifest was folded from {row['folded'] or 0} events, the log holds {row['logged'] or 0}"
                yield ChainBreak(scan_id=row["scan_id"], version=(row["logged"] or 0) + 1, position=None, what=what)
        if len(rows) < PAGE:
            return
        scan_id = rows[-1]["scan_id"]


async def _hash_before(connection: Connection, one: ChainedEvent) -> bytes | None:
    if one.event.version == 1:
        return event_codec.GENESIS
    found: bytes | None = await sql.hash_of(connection, scan_id=one.event.scan_id, version=one.event.version - 1)
    return found
