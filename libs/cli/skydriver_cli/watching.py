"""Follow a scan until it ends, by its live events: progress per nside, rate, time left, best fit."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from skydriver_cli.client import Client, Unavailable
from skydriver_cli.errors import CliError
from skydriver_cli.output import line, print_json, visible
from skydriver_cli.skymap import best_fit

_END_STATES = ("ABORTED__", "FINISHED__", "STOPPED__")
_PAUSE_S = 0.25
"""Events within this time are shown together."""
_REMAINING_LIMIT_S = 10.0
_MAX_FAILURES = 40
"""Consecutive failures; with the pauses below, a quarter of an hour: longer than a rollout, a failover or a laptop's short sleep."""
_MAX_PAUSE_S = 30.0
_HEALTHY_S = 60.0


async def watch(client: Client, scan_id: str, console: Console, *, as_json: bool = False) -> dict[str, Any]:
    """Follow the scan until it ends and return its last status. Raises CliError when the system rejects it or stays unavailable.

    as_json: print each new status as one JSON document instead of bars.
    """
    view = ProgressView()
    follower = EventFollower(client, scan_id)
    reading = asyncio.create_task(follower.read())
    try:
        with nullcontext() if as_json else _shown(view, console):
            while True:
                update = await follower.next_update()
                if update.has_result:
                    view.best = await _best_fit_line(client, scan_id)
                status: dict[str, Any] = await _retry_until_available(lambda: client.get(f"/scan/{scan_id}/status"))
                view.show(status, update.progress)
                if as_json:
                    print_json(status)
                if status["scan_complete"] or status["scan_state"].startswith(_END_STATES):
                    remaining = await follower.remaining()  # of a scan that had already ended, most of its events
                    if remaining.has_result:
                        view.best = await _best_fit_line(client, scan_id)
                    view.show(status, remaining.progress)
                    view.end(status)
                    return status
                await asyncio.sleep(_PAUSE_S)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


@contextmanager
def _shown(view: "ProgressView", console: Console) -> Iterator[None]:
    with Live(view, console=console, refresh_per_second=8):
        yield
    if not console.is_terminal:
        console.line()  # without a terminal, Live does not end its last line


class EventUpdate:
    """What the events since the last update contained."""

    def __init__(self) -> None:
        self.progress: dict[str, Any] | None = None
        self.has_result = False


class EventFollower:
    """Reads the scan's events in the background, and resumes the stream where it broke off."""

    def __init__(self, client: Client, scan_id: str) -> None:
        self._client = client
        self._scan_id = scan_id
        self._version = 0
        self._update = EventUpdate()
        self._has_update = asyncio.Event()
        self._error: CliError | None = None

    async def read(self) -> None:
        failures = 0
        try:
            while True:
                retry_after_s, started_at = 0.0, time.monotonic()
                try:
                    async for event in self._client.events(self._scan_id, after=self._version):
                        failures = 0
                        self._read_event(event)
                except Unavailable as error:
                    if failures >= _MAX_FAILURES:
                        raise
                    retry_after_s = error.retry_after_s
                # also after an end without an error: a server that is stopping ends each stream at once
                failures = 1 if time.monotonic() - started_at > _HEALTHY_S else failures + 1
                await asyncio.sleep(max(retry_after_s, _pause_s(failures)))
        except CliError as error:
            self._error = error
            self._has_update.set()

    async def next_update(self) -> EventUpdate:
        """Wait for new events. Raises CliError when the stream can't be read."""
        await self._has_update.wait()
        if self._error is not None:
            raise self._error
        self._has_update.clear()
        update, self._update = self._update, EventUpdate()
        return update

    async def remaining(self) -> EventUpdate:
        """Return what is still to arrive of a scan that has ended, until no event comes for a moment. Raises CliError."""
        remaining = EventUpdate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_REMAINING_LIMIT_S):
                while True:
                    async with asyncio.timeout(_PAUSE_S):
                        update = await self.next_update()
                    remaining.progress = update.progress or remaining.progress
                    remaining.has_result |= update.has_result
        return remaining

    def _read_event(self, event: dict[str, Any]) -> None:
        self._version = event["version"]
        match event["type"]:
            case "scan.progress-reported" if event["data"] is not None:  # the content of an old report may have been compacted
                self._update.progress = event["data"]["progress"]
            case "scan.result-received":
                self._update.has_result = True
        self._has_update.set()


class ProgressView:
    """What is shown: lines of text, and a progress bar per nside."""

    def __init__(self) -> None:
        self.best: Text | None = None
        self._state: Text | None = None
        self._pace = ""
        self._problems: list[dict[str, str]] = []
        self._bars = Progress(
            TextColumn("{task.description:>10}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("pixels"),
            expand=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __rich__(self) -> RenderableType:
        lines = (self._state, line(self._pace), self.best)
        return Group(*(each for each in lines if each), *problem_lines(self._problems), self._bars)

    def show(self, status: dict[str, Any], progress: dict[str, Any] | None) -> None:
        """Show the newest status and, if there is one, progress."""
        self._problems = status["problems"]
        self._state = state_line(status)
        if progress is None:
            return
        left = _at(progress, "processing_stats", "predictions", "time left")
        pace = _at(progress, "processing_stats", "rate", "all recos", "wall time", "mean reco")
        self._pace = ", ".join(
            part for part in (pace and f"one reconstruction per {pace}", left and f"about {left} left") if part
        )
        nsides = _at(progress, "tallies", "nsides")
        for nside in nsides if isinstance(nsides, dict) else ():
            done, *planned = (
                _number(_at(nsides, nside, "pixels", name)) for name in ("done", "generated", "initial approximation total")
            )
            total = max(planned)
            if not total:
                continue
            if nside not in self._tasks:
                self._tasks[nside] = self._bars.add_task(visible(f"nside {nside}"), total=total)
            self._bars.update(self._tasks[nside], completed=done, total=total)

    def end(self, status: dict[str, Any]) -> None:
        """Show the end of the scan: the bars of a complete scan are full, whatever was estimated before."""
        self._pace = ""
        if status["scan_complete"]:
            for task in self._bars.tasks:
                self._bars.update(task.id, total=max(1.0, task.completed), completed=max(1.0, task.completed))


def _at(document: Any, *names: str) -> Any:
    """Return the value at this path of a free-form document, or None (REST contract 5.1.2)."""
    for name in names:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _pause_s(failures: int) -> float:
    return min(_MAX_PAUSE_S, 0.25 * 2.0 ** min(failures, 10))


async def _retry_until_available(request: Callable[[], Awaitable[Any]]) -> Any:
    """Send the request until the system responds. Raises CliError, Unavailable when it does not for a quarter of an hour."""
    failures = 0
    while True:
        try:
            return await request()
        except Unavailable as error:
            failures += 1
            if failures > _MAX_FAILURES:
                raise
            await asyncio.sleep(max(error.retry_after_s, _pause_s(failures)))


def state_line(status: dict[str, Any]) -> Text:
    """Return the scan's state and number of workers."""
    running = status["ewms_workforce"]["n_running"]
    return line((status["scan_state"], "bold"), f", {running} worker{'s' if running != 1 else ''}")


def problem_lines(problems: list[dict[str, str]]) -> list[Text]:
    """Return a line for each problem of the scan."""
    return [line(("! ", "yellow"), str(problem["text"])) for problem in problems]


async def _best_fit_line(client: Client, scan_id: str) -> Text | None:
    result = await _retry_until_available(lambda: client.get(f"/scan/{scan_id}/result", include_deleted="true"))
    best = best_fit(result.get("skyscan_result", {}))
    if best is None:
        return None
    return line(
        "best fit: RA ", (f"{best.ra:.2f}°", "bold"), ", dec ", (f"{best.dec:+.2f}°", "bold"), f" (nside {best.nside})"
    )  # fmt: skip
