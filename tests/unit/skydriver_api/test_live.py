"""What waits for live streams: bounded in number and bytes, and nothing of a scan is missed for good."""

from collections.abc import Mapping, Sequence

import pytest

from skydriver_api.live import live_events as live_module
from skydriver_api.live.live_events import LiveEvent, LiveEvents
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId


class Log:
    """Knows the newest versions; queries: what was asked for."""

    def __init__(self, **versions: int) -> None:
        self.versions = versions
        self.queries: list[list[ScanId]] = []

    async def __call__(self, scan_ids: Sequence[ScanId]) -> Mapping[ScanId, int]:
        self.queries.append(list(scan_ids))
        return {scan_id: self.versions[scan_id] for scan_id in scan_ids if scan_id in self.versions}


def _event(version: int, size: int = 10) -> LiveEvent:
    return LiveEvent(version, "t", b"x" * size)


async def test_a_last_event_that_never_came_is_found_by_its_version_in_one_query_for_all() -> None:
    log = Log(a=3, b=2)
    live = LiveEvents(log)
    async with live.watching(ScanId("a")) as missed, live.watching(ScanId("b")) as even, live.watching(ScanId("b")) as waiting:
        for watcher, version in ((missed, 2), (even, 2), (waiting, 1)):
            watcher.catch_up()
            watcher.version = version
        waiting.offer(_event(2))
        await live.compare_versions()
        assert sorted(log.queries[0]) == ["a", "b"]
        assert len(log.queries) == 1
        assert [watcher.catch_up() for watcher in (missed, even, waiting)] == [True, False, False]


async def test_what_waits_for_all_watchers_together_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_WAITING_BYTES", 1000)
    live = LiveEvents(Log())
    async with live.watching(ScanId("a")) as first, live.watching(ScanId("b")) as second:
        first.catch_up()
        second.catch_up()
        first.offer(_event(1, 600))
        second.offer(_event(1, 600))
        assert live._buffered.n_bytes == 600
        assert (first.catch_up(), second.catch_up()) == (False, True)
        assert first.take() == _event(1, 600)
        second.offer(_event(2, 600))
        assert live._buffered.n_bytes == 600
    assert live._buffered.n_bytes == 0
    first.offer(_event(2))  # of one whose stream has ended, nothing is kept
    assert live._buffered.n_bytes == 0


async def test_streams_are_limited_in_number_and_for_each_token() -> None:
    live = LiveEvents(Log(), max_streams=3, max_streams_per_token=2)
    with live.admit("one"), live.admit("one"):
        with pytest.raises(TryLater, match="token"), live.admit("one"):
            raise AssertionError("it was let in")
        with live.admit("two"), pytest.raises(TryLater, match="too many concurrent live streams"), live.admit("three"):
            raise AssertionError("it was let in")
    with live.admit("one"):
        assert live.n_streams == 1
    assert live._by_token == {}


async def test_watchers_end_with_the_process_also_those_that_come_later() -> None:
    live = LiveEvents(Log())
    async with live.watching(ScanId("a")) as before:
        live.close()
        async with live.watching(ScanId("a")) as after:
            assert (before.is_closed, after.is_closed) == (True, True)
