"""Launcher ``local``: processes that end at once, dispatchers that were killed at the worst moment, files of any content."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import psutil
import pytest
from pydantic import SecretStr

from skydriver_common import process_identity
from skydriver_dispatcher.adapters.local import LocalLauncher
from skydriver_dispatcher.launcher_events import ScannerExit
from skydriver_dispatcher.main import _process_environment, _Tokens
from skydriver_dispatcher.settings import DispatcherSettings
from tests.support.launchers import a_queued_scan
from tests.support.waiting import until, wait_until

IDLE = (sys.executable, "-S", "-c", "import signal; signal.pause()")


@asynccontextmanager
async def a_launcher(folder: Path, command: Sequence[str] = IDLE) -> AsyncIterator[LocalLauncher]:
    launcher = LocalLauncher(folder, lambda _scan, _folder: {}, command=command)
    try:
        yield launcher
    finally:
        await launcher.close()


async def the_end(launcher: LocalLauncher) -> ScannerExit:
    woken = asyncio.Event()
    launcher.events.on_event(woken.set)
    async with asyncio.timeout(120):
        while (news := launcher.events.take()) is None:
            await woken.wait()
            woken.clear()
    assert isinstance(news, ScannerExit)
    assert launcher.events.take() is None
    return news


async def test_a_scanner_whose_dispatcher_died_before_it_wrote_down_its_pid_is_found_and_not_started_twice(
    tmp_path: Path,
) -> None:
    scan = a_queued_scan()
    async with a_launcher(tmp_path) as first, a_launcher(tmp_path) as second:
        job = await first.launch(scan)
        await first.close()
        (tmp_path / scan.scan_id / "scanner.pid.json").unlink()
        try:
            assert await second.launch(scan) == job
            assert await second.running_scans() == {scan.scan_id: True}
        finally:
            await second.stop(scan.scan_id)


async def test_such_a_one_is_found_by_a_look_at_all_and_ended_by_a_stop_as_well(tmp_path: Path) -> None:
    scans = [a_queued_scan(), a_queued_scan()]
    async with a_launcher(tmp_path) as first, a_launcher(tmp_path) as second, a_launcher(tmp_path) as third:
        for scan in scans:
            await first.launch(scan)
        await first.close()
        for scan in scans:
            (tmp_path / scan.scan_id / "scanner.pid.json").unlink()
        assert await second.running_scans() == {scan.scan_id: True for scan in scans}
        await second.close()
        for scan in scans:
            await third.stop(scan.scan_id)
        assert await third.running_scans() == {}


@pytest.mark.parametrize(
    ("command", "code"), [(("/bin/false",), 1), (("/bin/sh", "-c", "exit 2"), 2)], ids=["false", "refuses its input"]
)
async def test_scanners_that_end_at_once_tell_how_and_leave_nothing_behind(
    tmp_path: Path, command: Sequence[str], code: int
) -> None:
    async with a_launcher(tmp_path, command) as launcher:
        for _ in range(20):
            scan = a_queued_scan()
            await launcher.launch(scan)
            news = await the_end(launcher)
            assert (news.scan_id, news.exit_code) == (scan.scan_id, code)
            assert not (tmp_path / scan.scan_id / "scanner.pid.json").exists()
        # the same scan again and again
        for _ in range(5):
            await launcher.launch(scan)
            assert (await the_end(launcher)).exit_code == code
        await launcher.stop(scan.scan_id)
        assert await launcher.running_scans() == {}


@pytest.mark.parametrize("has_gone", [True, False], ids=["reaped before we look", "dead when we look"])
async def test_one_that_is_dead_before_it_is_identified_leaves_no_file_and_its_exit_code_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gone: bool
) -> None:
    spawn, scan = asyncio.create_subprocess_exec, a_queued_scan()

    async def and_it_ends(*words: str, **options: object) -> asyncio.subprocess.Process:
        child = await spawn(*words, **options)  # type: ignore[arg-type]
        # without the loop, which must not see it first
        wait_until(lambda: process_identity.identify(child.pid) is None, what="the child has ended", poll_s=0.001)
        if has_gone:
            await child.wait()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", and_it_ends)
    async with a_launcher(tmp_path, ("/bin/sh", "-c", "exit 2")) as launcher:
        await launcher.launch(scan)
        assert (await the_end(launcher)).exit_code == 2
        assert not (tmp_path / scan.scan_id / "scanner.pid.json").exists()
        assert await launcher.running_scans() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"7", b'{"pid": 1}', b'{"pid": 1, "start_ticks": null}', b'{"pid": null, "start_ticks": 1}',
        b'{"pid": -1, "start_ticks": 1}', b'{"pid": 0, "start_ticks": 1}', b'{"pid": 99999999999999999999, "start_ticks": 1}',
        b'{"pid": "1", "start_ticks": 1}', b'{"pid": [1], "start_ticks": 1}', b'{"pid": 1e400, "start_ticks": 1}', b"\xff\x00",
        b"[" * 100_000,
    ],
)  # fmt: skip
async def test_a_file_of_any_content_stops_neither_its_own_scan_nor_the_others(tmp_path: Path, content: bytes) -> None:
    damaged, fine = a_queued_scan(), a_queued_scan()
    (tmp_path / damaged.scan_id).mkdir()
    (tmp_path / damaged.scan_id / "scanner.pid.json").write_bytes(content)
    (tmp_path / "a file").touch()
    (tmp_path / "a folder" / "scanner.pid.json").mkdir(parents=True)
    async with a_launcher(tmp_path) as launcher:
        await launcher.launch(fine)
        try:
            assert await launcher.running_scans() == {fine.scan_id: True}
            await launcher.stop(damaged.scan_id)
            await launcher.launch(damaged)
            assert await launcher.running_scans() == {fine.scan_id: True, damaged.scan_id: True}
        finally:
            for scan in (fine, damaged):
                await launcher.stop(scan.scan_id)


async def test_a_shell_that_somebody_has_opened_in_the_folder_is_not_taken_for_the_scanner(tmp_path: Path) -> None:
    scan = a_queued_scan()
    folder = tmp_path / scan.scan_id
    folder.mkdir()
    shell, terminal = pty.fork()
    if shell == 0:
        os.chdir(folder)
        os.execv(IDLE[0], IDLE)
    try:
        await until(lambda: os.readlink(f"/proc/{shell}/cwd") == str(folder), "the shell is in the folder")
        async with a_launcher(tmp_path) as launcher:
            assert await launcher.running_scans() == {}
            assert await launcher.launch(scan) != str(shell)
            await launcher.stop(scan.scan_id)
        assert psutil.pid_exists(shell)
    finally:
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)  # noqa: ASYNC222  (at once)
        os.close(terminal)


async def test_calls_for_the_same_scan_at_once_start_one_process(tmp_path: Path) -> None:
    scan = a_queued_scan()
    async with a_launcher(tmp_path) as launcher:
        assert len(set(await asyncio.gather(*(launcher.launch(scan) for _ in range(5))))) == 1
        # what is started while it is being stopped is not ended with it
        _, job = await asyncio.gather(launcher.stop(scan.scan_id), launcher.launch(scan))
        assert await launcher.running_scans() == {scan.scan_id: True}
        assert json.loads((tmp_path / scan.scan_id / "scanner.pid.json").read_text())["pid"] == int(job)
        await launcher.stop(scan.scan_id)


WRITES = """
set -e
mkdir data-staging-cache
echo x > "$HOME/in home"
mktemp > /dev/null
mkdir -p "$XDG_CACHE_HOME" "$MPLCONFIGDIR" "$EWMS_TASK_DATA_HUB_DIR/data-staging-cache"
echo x > "$XDG_CACHE_HOME/cached"
case "$(mktemp -u)" in "$PWD"/*) ;; *) exit 3 ;; esac
"""


async def test_a_scanner_can_write_where_it_starts_and_to_its_home_and_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "EWMS_TASK_DATA_HUB_DIR",
    ):  # the dispatcher's own are none of the scanner's
        monkeypatch.setenv(name, "/proc/nowhere")
    settings = DispatcherSettings(
        database_url=SecretStr("postgresql://x"), amqp_url=SecretStr("amqp://x"), public_url="http://skydriver", work_dir=tmp_path,
        scan_token_key_file=tmp_path / "key.pem",
    )  # fmt: skip
    token = cast("_Tokens", lambda _scan_id: "a token")
    launcher = LocalLauncher(tmp_path, partial(_process_environment, settings, token), command=("/bin/sh", "-c", WRITES))
    scan = a_queued_scan()
    await launcher.launch(scan)
    news = await the_end(launcher)
    assert (news.exit_code, news.log_tail) == (0, "")
    folder = tmp_path / scan.scan_id
    assert (folder / "in home").exists()
    assert (folder / "data-staging-cache").is_dir()
    await launcher.close()


def test_an_identity_survives_a_step_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_identity.identify(os.getpid())
    assert before is not None
    booted_at = psutil.boot_time()
    for step_s in (-120.0, 120.0, 0.5):
        moved = booted_at + step_s
        monkeypatch.setattr(psutil, "boot_time", lambda moved=moved: moved)
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda moved=moved: moved)
        assert process_identity.identify(os.getpid()) == before
    assert before.start_ticks == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
