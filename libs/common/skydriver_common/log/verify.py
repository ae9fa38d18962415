"""Walking the hash chains: the first broken link of each scan, and whether the views stand on the newest ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from skydriver_common.db.pool import Connection
from skydriver_common.db.translate import database_faults
from skydriver_common.log.chains import chains, hash_of, sql
from skydriver_common.log.selection import Link
from skydriver_common.model import wire
from skydriver_common.model.events import SYSTEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where a scan's history is not what was written. position: None when a link is missing."""

    scan_id: str
    version: int
    position: int | None
    what: str


@dataclass(slots=True)
class Report:
    """What a walk has found: the first break of each scan, in order of scan."""

    events: int = 0
    scans: int = 0
    breaks: list[Break] = field(default_factory=list)


class Walk:
    """Checks links that come ordered by scan and version. Feed it pages; nothing but the last link is kept."""

    def __init__(self) -> None:
        self.report = Report()
        self._scan_id = ""
        self._version = 0
        self._hash = wire.GENESIS
        self._is_broken = False

    def begins(self, one: Link) -> bool:
        """Whether this link is the first of a scan that the walk sees."""
        return one.event.scan_id != self._scan_id

    def enter(self, one: Link, prev_hash: bytes | None, *, expected: int = 1) -> None:
        """Begin a scan with this link. prev_hash: of the link before it; None: it is missing, ``expected`` should be here."""
        self.report.scans += one.event.scan_id != SYSTEM
        self._scan_id, self._is_broken = one.event.scan_id, False
        self._version = one.event.version - 1 if prev_hash is not None else expected - 1
        self._hash = prev_hash if prev_hash is not None else wire.GENESIS

    def step(self, one: Link) -> None:
        """Check one link against the one before it."""
        self.report.events += 1
        if self._is_broken:
            return
        event = one.event
        what = ""
        if event.version != self._version + 1:
            what = f"version {self._version + 1} is missing"
        elif one.prev_hash != self._hash:
            what = "it does not continue the event before it"
        elif hash_of(one) != one.hash:
            what = "its content is not what was hashed"
        if what:
            self._is_broken = True
            position = None if "missing" in what else event.position
            version = self._version + 1 if "missing" in what else event.version
            self.report.breaks.append(Break(scan_id=event.scan_id, version=version, position=position, what=what))
        self._version, self._hash = event.version, one.hash

    def walk(self, links: Iterable[Link]) -> None:
        """Check links of whole scans, from their first on."""
        for one in links:
            if self.begins(one):
                self.enter(one, wire.GENESIS if one.event.version == 1 else None)
            self.step(one)


async def verify(connection: Connection, *, since: int = 0, told: Callable[[int], None] = lambda _: None) -> Report:
    """Walk all chains, or their links from a position on, in one snapshot. told: called with the number of events so far.

    Raises TryLater.
    """
    walk = Walk()
    with database_faults():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for page in chains(connection, since=since):
                for one in page:
                    if walk.begins(one):
                        walk.enter(one, await _hash_before(connection, one), expected=one.event.version - 1 if since else 1)
                    walk.step(one)
                told(walk.report.events)
            broken = {found.scan_id for found in walk.report.breaks}
            differing = [row async for row in sql.heads_that_differ(connection)]
    walk.report.breaks += [
        Break(scan_id=row["scan_id"], version=(row["logged"] or 0) + 1, position=None,
              what=f"its manifest was folded from {row['folded'] or 0} events, the log holds {row['logged'] or 0}")
        for row in differing if row["scan_id"] not in broken
    ]  # fmt: skip
    walk.report.breaks.sort(key=lambda found: found.scan_id)
    return walk.report


async def _hash_before(connection: Connection, one: Link) -> bytes | None:
    if one.event.version == 1:
        return wire.GENESIS
    found: bytes | None = await sql.hash_of(connection, scan_id=one.event.scan_id, version=one.event.version - 1)
    return found
