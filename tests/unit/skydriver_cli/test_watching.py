"""Following a scan over a stream that breaks off, and over events whose content was let go."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from rich.console import Console

from skydriver_cli import watching
from skydriver_cli.client import Client, Unavailable
from skydriver_cli.errors import CliError
from tests.support.waiting import let_others_run

RUNNING = {
    "scan_state": "IN_PROGRESS__PARTIAL_RESULT_GENERATED",
    "scan_complete": False,
    "problems": [],
    "ewms_workforce": {"n_running": 0},
}
COMPLETE = RUNNING | {"scan_state": "SCAN_HAS_FINAL_RESULT", "scan_complete": True}


class Server(Client):
    """Tells these events, some at each connection; the stream is lost in between."""

    def __init__(self, *connections: list[dict[str, Any]]) -> None:
        self.connections = list(connections)
        self.asked_after: list[int] = []
        self.told = 0

    async def events(self, scan_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        self.asked_after.append(after)
        if not self.connections:
            raise Unavailable("away", "")
        for event in self.connections.pop(0):
            self.told += 1
            yield event
        if not self.connections:
            await asyncio.Event().wait()
        raise Unavailable("away", "")

    async def get(self, path: str, **query: str) -> Any:
        return COMPLETE if self.told == 4 else RUNNING


def _event(version: int, data: Any = None, type_: str = "scan.progress-reported") -> dict[str, Any]:
    return {"version": version, "type": type_, "data": data}


class Restarting(Server):
    """Its status is not to be had twice: a database fails over."""

    failures = 2

    async def get(self, path: str, **query: str) -> Any:
        if self.failures:
            self.failures -= 1
            raise Unavailable("temporarily unavailable (503)", "", retry_after_s=3.0)
        return await super().get(path, **query)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching.asyncio, "sleep", lambda _: let_others_run())  # type: ignore[attr-defined]


async def test_a_stream_that_breaks_off_is_taken_up_where_it_was() -> None:
    server = Server([_event(1, {}, "scan.requested"), _event(2)], [], [_event(3), _event(4, {}, "scan.sent")])
    screen = io.StringIO()
    async with asyncio.timeout(120):
        status = await watching.watch(server, "s", Console(file=screen), as_json=True)
    assert status == COMPLETE
    assert server.asked_after == [0, 2, 2]


async def test_a_server_that_stays_away_is_a_problem() -> None:
    server = Server()
    with pytest.raises(CliError, match="away"):
        async with asyncio.timeout(120):
            await watching.watch(cast(Client, server), "s", Console(file=io.StringIO()))
    assert len(server.asked_after) == 41


async def test_a_server_that_asks_to_come_back_later_is_asked_again() -> None:
    server = Restarting([_event(1, {}, "scan.requested"), _event(2), _event(3), _event(4, {}, "scan.sent")])
    async with asyncio.timeout(120):
        assert await watching.watch(cast(Client, server), "s", Console(file=io.StringIO())) == COMPLETE
    assert server.failures == 0


@pytest.mark.parametrize(
    "progress",
    [
        {}, {"tallies": None, "processing_stats": []}, {"tallies": {"nsides": {"8": {}}}},
        {"tallies": {"nsides": {"8": {"pixels": {"done": "many", "generated": None}}}}},
        {"processing_stats": {"rate": {"all recos": "fast"}, "predictions": None}},
        {"processing_stats": {"predictions": {"time left": "[/bold] soon"}}},
    ],
)  # fmt: skip
async def test_progress_of_any_form_is_shown(progress: Any) -> None:
    """Tallies and rates are free-form (REST contract 5.1.2), and their texts are not markup."""
    report = _event(2, {"progress": progress})
    server = Server([_event(1, {}, "scan.requested"), report, _event(3), _event(4, {}, "scan.sent")])
    screen = io.StringIO()
    async with asyncio.timeout(120):
        assert await watching.watch(server, "s", Console(file=screen)) == COMPLETE


async def test_the_last_line_is_ended_where_no_cursor_moves() -> None:
    server = Server([_event(1, {}, "scan.requested"), _event(2), _event(3), _event(4, {}, "scan.sent")])
    screen = io.StringIO()
    async with asyncio.timeout(120):
        await watching.watch(server, "s", Console(file=screen))
    assert screen.getvalue().endswith("\n")
