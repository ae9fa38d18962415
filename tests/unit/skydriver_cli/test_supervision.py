"""Supervision of the embedded system's parts goes on when one can't be started for a while."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from skydriver_cli.embedded import processes
from skydriver_cli.embedded import supervision as module
from skydriver_cli.embedded.supervision import Component, Server, System
from skydriver_common import process_identity


def _system(folder: Path, parts: list[Component], servers: list[Server], said: list[str]) -> System:
    return System(folder, "http://127.0.0.1:1", servers, parts, {}, {}, said.append)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PAUSE_S", 0.01)


async def test_a_part_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    starts = 0
    again = asyncio.Event()
    real = processes.start

    async def start(*words: Any, **options: Any) -> processes.Child:
        nonlocal starts
        starts += 1
        if starts in (2, 3):
            raise OSError(28, "No space left on device")
        if starts == 4:
            again.set()
        return await real(*words, **options)

    monkeypatch.setattr(processes, "start", start)
    lives_on = [sys.executable, "-c", "import signal; signal.pause()"]
    part = Component("part", [sys.executable, "-c", ""], {}, "http://127.0.0.1:1")
    system = _system(tmp_path, [part], [], said)
    await module.start_component(tmp_path, part)
    part.argv = lives_on
    supervisor = asyncio.create_task(system.supervise())
    async with asyncio.timeout(60):
        await again.wait()
        system.stopping.set()
        await supervisor
    assert sum("failed to start; retrying" in text for text in said) == 2
    assert part.child is not None
    await part.child.stop()


async def test_a_server_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    tries = 0
    again = asyncio.Event()

    async def start() -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(28, "No space left on device")
        again.set()
        await asyncio.Event().wait()

    system = _system(tmp_path, [], [Server("postgres", start)], said)
    supervisor = asyncio.create_task(system.supervise())
    async with asyncio.timeout(60):
        await again.wait()
        system.stopping.set()
        await supervisor
    assert sum("failed to start; retrying" in text for text in said) == 2


async def test_a_process_whose_identity_cannot_be_kept_does_not_live_on(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(OSError, match="directory"):
        await processes.start(
            "part", [sys.executable, "-c", f"import os,signal; open({str(note)!r}, 'w').write(str(os.getpid())); signal.pause()"],
            env={}, cwd=tmp_path, log=tmp_path / "part.log", identity_file=tmp_path,
        )  # fmt: skip
    assert not note.exists() or process_identity.identify(int(note.read_text() or 0)) is None
