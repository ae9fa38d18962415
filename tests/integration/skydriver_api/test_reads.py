"""Look-ups of the gateway on the real store."""

from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.model import events as ev
from skydriver_common.model.ids import new_scan_id
from tests.support.histories import a_store


async def test_the_end_of_a_scan_is_known_whatever_its_log_holds(database: str) -> None:
    async with a_store(database) as store:
        reads = ViewQueries(store.pool)
        running, deleted, failed = [await store.a_scan() for _ in range(3)]
        after = await store.append("dispatcher", deleted, ev.ScanDeleted())
        await store.append(
            "dispatcher", failed, ev.LaunchAttempted(attempt=1), ev.ScanLaunched(launcher="local", job="j"),
            ev.ScannerFailed(reason="it died", exit_code=1, log_tail="\0 and more"),
        )  # fmt: skip
        assert await reads.ended_at(running) is None
        assert await reads.ended_at(new_scan_id()) is None
        assert await reads.ended_at(deleted) == after.scanner.ended_at
        assert await reads.ended_at(failed) is not None
