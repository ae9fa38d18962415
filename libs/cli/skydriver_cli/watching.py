"""Watching a scan until it ends, by its live events: a bar per nside, rate, time left, best direction so far."""

import asyncio
import json
from contextlib import nullcontext, suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from skydriver_cli.client import Client, StreamLost
from skydriver_cli.problems import Problem
from skydriver_cli.skymap import best_fit

_ENDS = ("ABORTED__", "FINISHED__", "STOPPED__")
_PAUSE_S = 0.25
"""Events that come closer together are shown together."""
_REST_LIMIT_S = 10.0
_MOST_LOSSES = 8


async def watch(client: Client, scan_id: str, console: Console, *, as_json: bool = False) -> dict[str, Any]:
    """Follow the scan to its end and return its last status. Raises Problem when it can't be asked.

    as_json: print each new status as one JSON document instead of bars.
    """
    view = _View()
    story = _Story(client, scan_id)
    reading = asyncio.create_task(story.read())
    try:
        with nullcontext() if as_json else Live(view, console=console, refresh_per_second=8):
            while True:
                news = await story.news()
                if news.has_result:
                    view.best = await _best(client, scan_id)
                status: dict[str, Any] = await client.get(f"/scan/{scan_id}/status")
                view.show(status, news.progress)
                if as_json:
                    console.print_json(json.dumps(status))
                if status["scan_complete"] or status["scan_state"].startswith(_ENDS):
                    rest = await story.rest()  # of a scan that was over before, most of its story
                    if rest.has_result:
                        view.best = await _best(client, scan_id)
                    view.show(status, rest.progress)
                    view.end(status)
                    return status
                await asyncio.sleep(_PAUSE_S)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


class _News:
    """What has come since the last look."""

    def __init__(self) -> None:
        self.progress: dict[str, Any] | None = None
        self.has_result = False


class _Story:
    """Reads the scan's events in the background, taking the stream up again where it broke off."""

    def __init__(self, client: Client, scan_id: str) -> None:
        self._client = client
        self._scan_id = scan_id
        self._version = 0
        self._news = _News()
        self._has_news = asyncio.Event()
        self._problem: Problem | None = None

    async def read(self) -> None:
        losses = 0
        try:
            while True:
                try:
                    async for event in self._client.events(self._scan_id, after=self._version):
                        losses = 0
                        self._take(event)
                except StreamLost:
                    losses += 1
                    if losses > _MOST_LOSSES:
                        raise
                    await asyncio.sleep(min(5.0, 0.25 * 2**losses))
        except Problem as problem:
            self._problem = problem
            self._has_news.set()

    async def news(self) -> _News:
        """Wait for something new. Raises Problem when the stream can't be had."""
        await self._has_news.wait()
        if self._problem is not None:
            raise self._problem
        self._has_news.clear()
        news, self._news = self._news, _News()
        return news

    async def rest(self) -> _News:
        """What is still on its way of a story that is over: until nothing has come for a moment. Raises Problem."""
        rest = _News()
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_LIMIT_S):
                while True:
                    async with asyncio.timeout(_PAUSE_S):
                        news = await self.news()
                    rest.progress = news.progress or rest.progress
                    rest.has_result |= news.has_result
        return rest

    def _take(self, event: dict[str, Any]) -> None:
        self._version = event["version"]
        match event["type"]:
            case "scan.progress-reported" if event["data"] is not None:  # of an old report the content may be gone
                self._news.progress = event["data"]["progress"]
            case "scan.result-received":
                self._news.has_result = True
        self._has_news.set()


class _View:
    """What is shown: two lines of text, and a bar per nside."""

    def __init__(self) -> None:
        self.best = ""
        self._state = ""
        self._pace = ""
        self._problems: list[dict[str, str]] = []
        self._bars = Progress(
            TextColumn("{task.description:>10}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("pixels"), expand=True
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __rich__(self) -> RenderableType:
        lines = [
            Text.from_markup(line) for line in (self._state, self._pace, self.best and f"best so far: {self.best}") if line
        ]
        return Group(*lines, *problem_lines(self._problems), self._bars)

    def show(self, status: dict[str, Any], progress: dict[str, Any] | None) -> None:
        """Take the newest status and, if there is one, progress."""
        self._problems = status["problems"]
        self._state = state_line(status)
        if progress is None:
            return
        stats = progress["processing_stats"]
        left = stats["predictions"].get("time left")
        pace = stats["rate"].get("all recos", {}).get("wall time", {}).get("mean reco")
        self._pace = ", ".join(part for part in (pace and f"a reconstruction every {pace}", left and f"{left} left") if part)
        for nside, tally in progress["tallies"].get("nsides", {}).items():
            pixels = tally["pixels"]
            total = max(pixels["generated"], pixels["initial approximation total"])
            if nside not in self._tasks:
                self._tasks[nside] = self._bars.add_task(f"nside {nside}", total=total)
            self._bars.update(self._tasks[nside], completed=pixels["done"], total=total)

    def end(self, status: dict[str, Any]) -> None:
        """The last picture: of a complete scan, every bar is full, whatever was estimated before."""
        self._pace = ""
        if status["scan_complete"]:
            for task in self._bars.tasks:
                self._bars.update(task.id, total=max(1.0, task.completed), completed=max(1.0, task.completed))


def state_line(status: dict[str, Any]) -> str:
    """The scan's state and its workers, as markup."""
    running = status["ewms_workforce"]["n_running"]
    return f"[bold]{status['scan_state']}[/bold], {running} worker{'s' if running != 1 else ''}"


def problem_lines(problems: list[dict[str, str]]) -> list[Text]:
    """Why a scan waits or fails, a line each."""
    return [Text.assemble(("! ", "yellow"), problem["text"]) for problem in problems]


async def _best(client: Client, scan_id: str) -> str:
    result = await client.get(f"/scan/{scan_id}/result", include_deleted="true")
    best = best_fit(result.get("skyscan_result", {}))
    return "" if best is None else f"RA [bold]{best.ra:.2f}°[/bold], dec [bold]{best.dec:+.2f}°[/bold] (nside {best.nside})"
