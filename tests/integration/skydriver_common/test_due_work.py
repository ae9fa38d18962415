"""Due work: nothing that was put is lost, and nothing is done by two at once within a lease, whatever the holders do."""

import asyncio
import itertools
import re
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from skydriver_common.db import schedule as module
from skydriver_common.db.schedule import DueChanges, DueWork, Schedule
from skydriver_common.model.ids import ScanId
from skydriver_dispatcher import due_kinds as dispatcher_kinds
from skydriver_ewms_bridge import due_kinds as bridge_kinds
from skydriver_progress import due_kinds as progress_kinds
from tests.support.histories import Store, a_store

T = TypeVar("T")
KIND = "kind"
HOUR = timedelta(hours=1)

# Statements of the previous release, which runs beside this one during an upgrade.
OLD_PUT = """INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, note) VALUES ('kind', $1, now(), 0, now(), '{}')
ON CONFLICT ON CONSTRAINT due_work_pkey DO NOTHING"""
OLD_PUT_AGAIN = OLD_PUT.replace(
    "DO NOTHING", "DO UPDATE SET due_at = excluded.due_at, note = excluded.note, leased_by = NULL, leased_until = NULL"
)
OLD_CLAIM = """UPDATE due_work SET leased_by = 'old', leased_until = now() + make_interval(secs => 60), tries = tries + 1
 WHERE (kind, scan_id) = (
    SELECT kind, scan_id FROM due_work
     WHERE kind = 'kind' AND due_at <= now() AND priority >= 0 AND coalesce(leased_until, '-infinity') < now()
     ORDER BY priority DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING scan_id, priority, created_at, due_at, tries, note"""
OLD_FINISH = "DELETE FROM due_work WHERE kind = 'kind' AND scan_id = $1 AND leased_by = 'old'"
OLD_POSTPONE = """UPDATE due_work SET due_at = now() + interval '1 hour', note = '{}', leased_by = NULL, leased_until = NULL
 WHERE kind = 'kind' AND scan_id = $1 AND leased_by = 'old'"""


@pytest.fixture
def schedules(store: Store) -> tuple[Schedule, Schedule]:
    """Two replicas."""
    return Schedule(store.pool, store.notifier, holder="one"), Schedule(store.pool, store.notifier, holder="two")


async def claimed(schedule: Schedule) -> DueWork:
    work = await schedule.claim(KIND)
    assert work is not None
    return work


async def expire(store: Store) -> None:
    await store.pool.execute("UPDATE due_work SET leased_until = now() - interval '1 second' WHERE leased_until IS NOT NULL")


async def test_a_claim_that_has_ended_does_not_finish_anothers_even_of_the_same_replica(
    store: Store, schedules: tuple[Schedule, Schedule]
) -> None:
    one, _ = schedules
    await one.put(KIND, ScanId("s"))
    late = await claimed(one)
    await expire(store)
    current = await claimed(one)
    await one.finish(late)
    await one.postpone(late, HOUR)
    assert await one.claim(KIND) is None  # still claimed
    await one.postpone(current, timedelta(0))
    assert (await claimed(one)).tries == 3


async def test_work_that_is_dropped_and_put_is_not_finished_by_the_claim_before(schedules: tuple[Schedule, Schedule]) -> None:
    one, two = schedules
    await one.put(KIND, ScanId("s"))
    before = await claimed(one)
    await one.drop(KIND, ScanId("s"))
    await one.put(KIND, ScanId("s"))
    await claimed(two)
    await one.finish(before)
    assert await one.seconds_to_next([KIND]) is not None


async def test_what_is_put_while_it_is_claimed_is_done_after_the_claim(schedules: tuple[Schedule, Schedule]) -> None:
    one, two = schedules
    await one.put(KIND, ScanId("s"), note={"is": "first"})
    work = await claimed(one)
    await two.put(KIND, ScanId("s"), note={"is": "second"})
    assert await two.claim(KIND) is None  # not by two at once
    await one.finish(work)
    again = await claimed(two)
    assert (again.note, again.tries) == ({"is": "second"}, 1)
    await two.finish(again)
    assert await one.seconds_to_next([KIND]) is None


async def test_a_postponed_row_that_was_put_meanwhile_is_due_at_once(schedules: tuple[Schedule, Schedule]) -> None:
    one, two = schedules
    await one.put(KIND, ScanId("s"))
    work = await claimed(one)
    await two.put(KIND, ScanId("s"), after=HOUR)
    await two.put(KIND, ScanId("s"))
    await one.postpone(work, HOUR, note={"is": "later"})
    assert (await claimed(two)).scan_id == "s"


async def test_waiting_work_is_due_at_the_earlier_time_and_of_the_higher_priority(schedules: tuple[Schedule, Schedule]) -> None:
    one, _ = schedules
    await one.put(KIND, ScanId("s"), after=HOUR, priority=1, note={"is": "kept"})
    await one.put(KIND, ScanId("s"), after=2 * HOUR, priority=3)
    assert 3500 < (await one.seconds_to_next([KIND]) or 0) <= 3600
    await one.put(KIND, ScanId("s"), priority=2)
    work = await claimed(one)
    assert (work.priority, work.note) == (3, {"is": "kept"})


async def test_urgent_work_goes_first_then_what_is_due_longest(schedules: tuple[Schedule, Schedule]) -> None:
    one, _ = schedules
    for name, priority, since in (("a", 0, 3), ("b", 0, 5), ("c", 7, 1), ("d", -3, 9), ("e", 7, 2)):
        await one.put(KIND, ScanId(name), priority=priority, after=timedelta(seconds=-since))
    await one.put(KIND, ScanId("later"), priority=9, after=HOUR)
    assert [(await claimed(one)).scan_id for _ in range(5)] == ["e", "c", "b", "a", "d"]
    assert await one.claim(KIND) is None


async def test_a_decision_finishes_and_puts_with_its_transaction(store: Store, schedules: tuple[Schedule, Schedule]) -> None:
    one, _ = schedules
    await one.put(KIND, ScanId("s"))
    await one.put(KIND, ScanId("t"))
    s, t = await claimed(one), await claimed(one)
    await one.put(KIND, ScanId("t"))
    changes, later = DueChanges(), DueChanges()
    changes.finish(s)
    changes.put(KIND, ScanId("s"), after=HOUR)
    later.put(KIND, ScanId("s"), after=2 * HOUR)
    later.finish(t)
    changes.take_in(later)
    assert changes.kinds == set()  # nobody has to be woken for what is due in an hour
    async with store.pool.acquire() as connection:
        await changes.write(connection)
    rows = await store.pool.fetch(
        "SELECT scan_id, due_at > now() + interval '59 min' AS is_later, leased_by FROM due_work ORDER BY scan_id"
    )
    assert [tuple(row) for row in rows] == [("s", True, None), ("t", False, None)]


@pytest.mark.parametrize("after_s", [0.0, 3600.0])
async def test_a_put_is_not_lost_to_a_claim_of_the_previous_release(
    store: Store, schedules: tuple[Schedule, Schedule], after_s: float
) -> None:
    one, _ = schedules
    await one.put(KIND, ScanId("s"))
    assert await store.pool.fetchrow(OLD_CLAIM) is not None
    await one.put(KIND, ScanId("s"), after=timedelta(seconds=after_s))
    await store.pool.execute(OLD_FINISH, "s")
    seconds = await one.seconds_to_next([KIND])
    assert seconds is not None
    assert after_s - 60 < seconds <= after_s


async def test_the_previous_release_takes_over_what_this_one_has_left_and_the_other_way(
    store: Store, schedules: tuple[Schedule, Schedule]
) -> None:
    one, _ = schedules
    await store.pool.execute(OLD_PUT, "s")
    left = await claimed(one)
    assert await store.pool.fetchrow(OLD_CLAIM) is None
    await expire(store)
    row = await store.pool.fetchrow(OLD_CLAIM)
    assert row is not None
    await one.finish(left)
    assert await one.claim(KIND) is None
    await expire(store)
    work = await claimed(one)
    await store.pool.execute(OLD_FINISH, "s")
    await store.pool.execute(OLD_POSTPONE, "s")
    assert await one.claim(KIND) is None
    await one.finish(work)
    assert await store.pool.fetchval("SELECT count(*) FROM due_work") == 0


async def test_a_replica_gives_back_its_own_claims_alone_also_those_of_the_previous_release(
    store: Store, schedules: tuple[Schedule, Schedule]
) -> None:
    one, two = schedules
    for name in ("a", "b", "c"):
        await one.put(KIND, ScanId(name))
    mine, others = await claimed(one), await claimed(two)
    await store.pool.execute(
        "UPDATE due_work SET leased_by = 'one', leased_until = now() + interval '1 min' WHERE leased_by IS NULL"
    )
    await one.put(KIND, mine.scan_id)
    await one.release_all()
    assert {(await claimed(two)).scan_id for _ in range(2)} == {"a", "b", "c"} - {others.scan_id}
    assert await two.claim(KIND) is None


@dataclass
class Row:
    """What the model knows of a row. Times are hours. undone: puts that no finished claim has begun after."""

    due: int
    undone: set[int]
    claim: Any = None
    is_expired: bool = False
    again: int | None = None
    begun: set[int] = field(default_factory=set)

    def is_claimable(self, now: int) -> bool:
        return self.is_expired if self.claim is not None else self.due <= now

    def free(self) -> None:
        self.claim, self.is_expired, self.again, self.begun = None, False, None, set()


class Holders(RuleBasedStateMachine):
    """Three holders whose clocks differ by minutes, one of the previous release, and work that is put at any moment."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.rows: dict[str, Row] = {}
        self.claims: list[tuple[str, Any]] = []
        self.now = 0
        self.numbers = itertools.count()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.store = await self.stack.enter_async_context(a_store(self.url))
        await self.store.pool.execute("TRUNCATE due_work")
        self.holders = [Schedule(self.store.pool, self.store.notifier, holder=f"h{n}") for n in range(3)]

    def skewed(self, which: int) -> Any:
        """The clock of a holder is wrong by up to three minutes."""
        by = timedelta(seconds=(which - 1) * 180)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> "Clock":
                there = datetime.now(UTC) + by
                return cls(there.year, there.month, there.day, there.hour, there.minute, there.second, tzinfo=tz)

        return patch.object(module, "datetime", Clock, create=True)

    @rule(which=st.integers(0, 2), scan=st.sampled_from("abc"), hours=st.integers(0, 2), priority=st.integers(0, 1))
    def put(self, which: int, scan: ScanId, hours: int, priority: int) -> None:
        with self.skewed(which):
            self.run(self.holders[which].put(KIND, scan, after=hours * HOUR, priority=priority))
        number, due = next(self.numbers), self.now + hours
        row = self.rows.setdefault(scan, Row(due, set()))
        row.undone.add(number)
        if row.claim == "old" and not row.is_expired:
            row.free()
            row.due = due
        elif row.claim is not None and not row.is_expired:
            row.again = due if row.again is None else min(row.again, due)
        else:
            row.free()
            row.due = min(row.due, due)

    @rule(which=st.integers(0, 2))
    def claim(self, which: int) -> None:
        with self.skewed(which):
            work = self.run(self.holders[which].claim(KIND))
        self._claimed(None if work is None else work.scan_id, work)

    def _claimed(self, scan: ScanId | None, claim: Any) -> None:
        claimable = {name for name, row in self.rows.items() if row.is_claimable(self.now)}
        if scan is None:
            assert not claimable, "there is work that is due and nobody gets it"
            return
        assert scan in claimable, "two hold the same work, or it is not due"
        row = self.rows[scan]
        row.free()
        row.claim, row.begun = claim, set(row.undone)
        self.claims.append((scan, claim))

    @rule(which=st.integers(0, 9))
    def finish(self, which: int) -> None:
        if not self.claims:
            return
        scan, claim = self.claims[which % len(self.claims)]
        if claim == "old":
            self.run(self.store.pool.execute(OLD_FINISH, scan))
        else:
            with self.skewed(which % 3):
                self.run(self.holders[which % 3].finish(claim))
        row = self.rows.get(scan)
        if row is None or row.claim != claim:
            return
        row.undone -= row.begun
        if row.again is None:
            assert not row.undone
            del self.rows[scan]
        else:
            row.due = row.again
            row.free()

    @rule(which=st.integers(0, 9))
    def postpone(self, which: int) -> None:
        if not self.claims:
            return
        scan, claim = self.claims[which % len(self.claims)]
        if claim == "old":
            self.run(self.store.pool.execute(OLD_POSTPONE, scan))
        else:
            with self.skewed(which % 3):
                self.run(self.holders[which % 3].postpone(claim, HOUR))
        row = self.rows.get(scan)
        if row is not None and row.claim == claim:
            row.due = self.now + 1 if row.again is None else min(row.again, self.now + 1)
            row.free()

    @rule(scan=st.sampled_from("abc"))
    def drop(self, scan: ScanId) -> None:
        self.run(self.holders[0].drop(KIND, scan))
        self.rows.pop(scan, None)

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        """A replica starts again, or stops."""
        self.run(self.holders[which].release_all())
        for row in self.rows.values():
            if isinstance(row.claim, DueWork) and row.claim.claim.startswith(f"h{which}#"):
                row.free()

    @rule()
    def leases_end(self) -> None:
        self.run(expire(self.store))
        for row in self.rows.values():
            row.is_expired = row.claim is not None

    @rule()
    def an_hour_passes(self) -> None:
        hour = "- interval '1 hour'"
        self.run(
            self.store.pool.execute(
                f"UPDATE due_work SET due_at = due_at {hour}, leased_until = leased_until {hour}, again_at = again_at {hour}"
            )
        )
        self.now += 1
        for row in self.rows.values():
            row.is_expired = row.claim is not None

    @rule(scan=st.sampled_from("abc"))
    def put_by_the_previous_release(self, scan: ScanId) -> None:
        self.run(self.store.pool.execute(OLD_PUT, scan))
        self.rows.setdefault(scan, Row(self.now, set()))

    @rule(scan=st.sampled_from("abc"))
    def put_again_by_the_previous_release(self, scan: ScanId) -> None:
        self.run(self.store.pool.execute(OLD_PUT_AGAIN, scan))
        row = self.rows.setdefault(scan, Row(self.now, set()))
        row.free()
        row.due = self.now

    @rule()
    def claim_by_the_previous_release(self) -> None:
        row = self.run(self.store.pool.fetchrow(OLD_CLAIM))
        if row is not None and any(r.claim == "old" and s == row["scan_id"] for s, r in self.rows.items()):
            self.rows[row["scan_id"]].claim = None  # it knows its claims by the replica's name alone
            self.rows[row["scan_id"]].due = self.now
        self._claimed(None if row is None else row["scan_id"], "old")

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.run(self.store.pool.fetch("SELECT scan_id, due_at, leased_until, again_at FROM due_work"))
        assert {row["scan_id"] for row in rows} == set(self.rows)
        for name, row in self.rows.items():
            assert row.undone <= row.begun or row.claim is None or row.again is not None, f"a put of {name} would be forgotten"

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.run(self._all_comes_to_its_end())
        finally:
            self.run(self.stack.aclose())
            self.runner.close()

    async def _all_comes_to_its_end(self) -> None:
        await self.store.pool.execute(
            "UPDATE due_work SET due_at = due_at - interval '9 hours', leased_until = leased_until - interval '9 hours',"
            " again_at = again_at - interval '9 hours'"
        )
        done = set()
        while (work := await self.holders[0].claim(KIND)) is not None:
            done.add(work.scan_id)
            await self.holders[0].finish(work)
        assert done == set(self.rows)


def test_nothing_is_lost_and_nothing_is_done_by_two_at_once(database: str) -> None:
    Holders.url = database
    run_state_machine_as_test(
        Holders,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )


DOC = (Path(__file__).parents[3] / "docs/developers/due-work.md").read_text()
STATES = ("no row", "free", "claimed", "expired")


def cells() -> dict[tuple[str, str], str]:
    """The page's table of verbs: (verb, state) to what happens."""
    found: dict[tuple[str, str], str] = {}
    for line in DOC.splitlines():
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        verb = re.match(r"`(put|claim|finish|postpone|drop|release_all)`", first)
        if verb and len(rest) == len(STATES):
            found |= {(first.replace("`", ""), state): cell for state, cell in zip(STATES, rest, strict=True)}
    return found


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "verb",
    ["put", "claim", "finish, own token", "finish, old token", "postpone, own token", "postpone, old token", "drop", "release_all, own"],
)  # fmt: skip
async def test_the_page_says_what_each_verb_does_to_a_row(
    store: Store, schedules: tuple[Schedule, Schedule], verb: str, state: str
) -> None:
    one, two = schedules
    await one.put(KIND, ScanId("s"))
    old = await claimed(one)
    await expire(store)
    own = await claimed(one)
    match state:
        case "no row":
            await one.drop(KIND, ScanId("s"))
        case "free":
            await one.postpone(own, -HOUR)
        case "expired":
            await expire(store)
    before = await store.pool.fetchrow("SELECT * FROM due_work")
    work = old if "old" in verb else own
    match verb.partition(",")[0]:
        case "put":
            await two.put(KIND, ScanId("s"), after=-2 * HOUR)
        case "claim":
            await two.claim(KIND)
        case "finish":
            await two.finish(work)
        case "postpone":
            await two.postpone(work, HOUR)
        case "drop":
            await two.drop(KIND, ScanId("s"))
        case "release_all":
            await one.release_all()
    after = await store.pool.fetchrow("SELECT * FROM due_work")
    said = cells()[verb, state]
    if after == before:
        assert said == "nothing"
    elif before is None:
        assert said == "a row, free"
    elif after is None:
        assert said.startswith("gone")
    elif after["leased_by"] is None:
        assert said.startswith("due at the earlier time" if state == "free" else "free")
    else:
        assert after["leased_until"] > before["due_at"]
        assert said.startswith("stays claimed" if after["leased_by"] == own.claim else "claimed")


def test_the_page_names_every_kind_of_due_work() -> None:
    kinds = {*dispatcher_kinds.DueKind, *bridge_kinds.DueKind, *progress_kinds.DueKind}
    assert {kind for kind in kinds if f"| `{kind}` |" not in DOC} == set()
