"""What every launcher promises (``ports.Launcher``): processes of this machine and Jobs of a cluster alike."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from skydriver_common.model.scan import Scan
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.adapters.local import LocalLauncher
from skydriver_dispatcher.launcher_events import ScannerExit
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.ports import Launcher
from tests.support import pods
from tests.support.kmock_cluster import NAMESPACE, a_cluster
from tests.support.launchers import JOBS, a_queued_scan, kubernetes_launcher
from tests.support.waiting import until

PROGRAM = """
import pathlib, sys, time
end = pathlib.Path("end")
while not end.exists() or not end.read_text():
    time.sleep(0.01)
print("last words")
sys.exit(int(end.read_text()))
"""


@dataclass
class Place:
    """A launcher, the means to end a scanner server from outside, and to have a second launcher on the same place."""

    launcher: Launcher
    end: Callable[[Scan, int], Awaitable[None]]
    another: Callable[[], Launcher]

    async def news(self) -> ScannerExit:
        """The next end."""
        async with asyncio.timeout(120):
            woken = asyncio.Event()
            self.launcher.events.on_event(woken.set)
            while True:
                news = self.launcher.events.take()
                if isinstance(news, ScannerExit):
                    return news
                if news is None:
                    await woken.wait()
                    woken.clear()

    async def until_present(self, expected: dict[str, bool]) -> None:
        """Wait until just these are there."""

        async def are_present() -> bool:
            return await self.launcher.running_scans() == expected

        await until(are_present, f"{expected} are present")


async def _local(folder: Path) -> AsyncIterator[Place]:
    def made() -> LocalLauncher:
        return LocalLauncher(folder, lambda _scan, _folder: {}, command=(sys.executable, "-c", PROGRAM))

    async def end(scan: Scan, code: int) -> None:
        (folder / scan.scan_id / "end").write_text(str(code))

    launchers = [made()]

    def another() -> LocalLauncher:
        launchers.append(made())
        return launchers[-1]

    yield Place(launchers[0], end, another)
    for scan_id in await launchers[0].running_scans():
        await launchers[0].stop(scan_id)
    for launcher in launchers:
        await launcher.close()


async def _kubernetes() -> AsyncIterator[Place]:
    async with a_cluster() as (cluster, client):
        pending = PendingEvents()
        leadership = Leadership(client, namespace=NAMESPACE, name="skydriver", holder="one")
        watch = JobInformer(client, JOBS, leadership, pending, on_listed=lambda: None, timeout_s=2.0)
        stopping = asyncio.Event()
        watching = asyncio.create_task(watch.run(stopping))
        await cluster.until_watched(2)

        async def end(scan: Scan, code: int) -> None:
            await cluster.run_pod(scan.scan_id, **pods.terminated(scan.scan_id, code, message="last words"))

        yield Place(kubernetes_launcher(client, pending), end, lambda: kubernetes_launcher(client, PendingEvents()))
        stopping.set()
        await watching


@pytest.fixture(params=["local", "kubernetes"])
async def place(request: Any, tmp_path: Path) -> AsyncIterator[Place]:
    async for place in _local(tmp_path) if request.param == "local" else _kubernetes():
        yield place


async def test_launching_twice_is_one_scanner_server(place: Place) -> None:
    scan = a_queued_scan()
    job = await place.launcher.launch(scan)
    assert await place.launcher.launch(scan) == job
    assert await place.launcher.running_scans() == {scan.scan_id: True}


async def test_scanner_servers_do_not_get_into_each_others_way(place: Place) -> None:
    scans = [a_queued_scan() for _ in range(3)]
    await asyncio.gather(*(place.launcher.launch(scan) for scan in scans))
    await place.launcher.stop(scans[0].scan_id)
    await place.until_present({scan.scan_id: True for scan in scans[1:]})


async def test_stopping_ends_it_and_may_be_repeated_and_asked_for_what_never_was(place: Place) -> None:
    scan = a_queued_scan()
    await place.launcher.stop(scan.scan_id)
    await place.launcher.launch(scan)
    await place.launcher.stop(scan.scan_id)
    await place.until_present({})
    await place.launcher.stop(scan.scan_id)


async def test_what_was_stopped_may_be_launched_again(place: Place) -> None:
    scan = a_queued_scan()
    await place.launcher.launch(scan)
    await place.launcher.stop(scan.scan_id)
    await place.until_present({})
    await place.launcher.launch(scan)
    await place.until_present({scan.scan_id: True})


async def test_another_dispatcher_finds_and_ends_what_the_first_has_launched(place: Place) -> None:
    scan = a_queued_scan()
    job = await place.launcher.launch(scan)
    other = place.another()
    assert await other.running_scans() == {scan.scan_id: True}
    assert await other.launch(scan) == job
    await other.stop(scan.scan_id)

    async def none_is_left() -> bool:
        return await other.running_scans() == {}

    await until(none_is_left)
    # the first, which did not ask for the end, may still have to tell it
    assert set((await place.launcher.running_scans()).values()) <= {False}


@pytest.mark.parametrize("code", [0, 1, 2])
async def test_an_end_that_nobody_asked_for_is_told_once_with_its_exit_code(place: Place, code: int) -> None:
    scan = a_queued_scan()
    await place.launcher.launch(scan)
    await place.end(scan, code)
    news = await place.news()
    assert (news.scan_id, news.exit_code, news.was_taken) == (scan.scan_id, code, False)
    if code:
        assert "last words" in news.log_tail
    assert place.launcher.events.take() is None
