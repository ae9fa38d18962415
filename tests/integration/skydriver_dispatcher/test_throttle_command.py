"""`skydriver throttle`, as a person runs it, beside dispatchers that claim."""

from datetime import timedelta

from skydriver_common.db.schedule import DueWork, Schedule
from skydriver_common.model.ids import ScanId
from skydriver_dispatcher import store as statements
from skydriver_dispatcher.due_kinds import DueKind
from tests.support.dispatchers import set_throttle
from tests.support.histories import Store, skydriver


async def test_the_throttle_is_shown_changed_for_all_at_once_noted_and_reset(store: Store) -> None:
    await set_throttle(store, interval_s=300, max_running=10)
    schedule = Schedule(store.pool, store.notifier, holder="x")
    for n in range(5):
        await schedule.put(DueKind.LAUNCH, ScanId(f"scan-{n}"), priority=0)
    await schedule.put(DueKind.LAUNCH, ScanId("urgent"), priority=100)

    async def claimed() -> int:
        number = 0
        while isinstance(await statements.claim_launch(store.pool, holder="x", lease=timedelta(seconds=60)), DueWork):
            number += 1
        return number

    url = ("--database-url", store.url, "--json")
    before = (await skydriver("throttle", "show", *url)).json
    assert (before["interval_s"], before["max_running"], before["waiting"], before["waiting_urgent"]) == (300, 10, 5, 1)
    assert await claimed() == 2  # the urgent one, and one of the others

    changed = (await skydriver("throttle", "set", "--interval", "0", "--max-running", "4", *url)).json
    assert (changed["interval_s"], changed["max_running"], changed["is_interval_set"]) == (0, 4, True)
    assert await claimed() == 2  # four are being started now
    history = await skydriver("log", "history", "system", "--database-url", store.url)
    assert "one launch per 0 s, at most 4 running scans" in history.out
    assert "operator:" in history.out

    after = (await skydriver("throttle", "reset", *url)).json
    assert (after["interval_s"], after["max_running"], after["is_interval_set"]) == (300, 10, False)


async def test_a_hold_is_told_with_its_reason(store: Store) -> None:
    await statements.pause_launches(store.pool, for_s=60, because="Kubernetes quota exceeded: exceeded quota")
    told = await skydriver("throttle", "show", "--database-url", store.url)
    assert "on hold until" in told.out
    assert "exceeded quota" in told.out


async def test_setting_nothing_or_nonsense_is_refused(store: Store) -> None:
    for words in ((), ("--interval", "-1")):
        refused = await skydriver("throttle", "set", *words, "--database-url", store.url)
        assert refused.code == 2
    assert await store.pool.fetchval("SELECT changed_at FROM launch_throttle") is None
