"""Watching a scan until it ends: a progress bar per nside, rate, time left, best direction so far."""

import asyncio
import json
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from skydriver_cli.client import Client
from skydriver_cli.skymap import best_fit

_POLL_S = 0.5
_RESULT_EVERY = 4
_ENDS = ("ABORTED__", "FINISHED__", "STOPPED__")


async def watch(client: Client, scan_id: str, console: Console, *, as_json: bool = False) -> dict[str, Any]:
    """Follow the scan to its end and return its last status. Raises Problem when it can't be asked."""
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=False, disable=as_json) as bars:
        state = bars.add_task("state", total=None, note="")
        tasks: dict[str, TaskID] = {}
        looks = 0
        last: dict[str, Any] = {}
        while True:
            status = await client.get(f"/scan/{scan_id}/status")
            manifest = await client.get(f"/scan/{scan_id}/manifest", projection="progress", include_deleted="true")
            _show(bars, tasks, manifest["progress"] or {})
            note = f"{status['scan_state']}, {status['ewms_workforce']['n_running']} workers"
            if looks % _RESULT_EVERY == 0:
                best = await _best(client, scan_id)
                last = {"best": best}
            if last.get("best"):
                note += f", best so far {last['best']}"
            bars.update(state, note=note)
            if as_json:
                console.print_json(json.dumps(status))
            if status["scan_complete"] or status["scan_state"].startswith(_ENDS):
                _show(bars, tasks, manifest["progress"] or {}, is_done=status["scan_complete"])
                return dict(status)
            looks += 1
            await asyncio.sleep(_POLL_S)


def _show(bars: Progress, tasks: dict[str, TaskID], progress: dict[str, Any], *, is_done: bool = False) -> None:
    predictions = progress.get("processing_stats", {}).get("predictions", {})
    left = predictions.get("time left", "")
    for nside, tally in progress.get("tallies", {}).get("nsides", {}).items():
        pixels = tally["pixels"]
        total = max(pixels["generated"], pixels["initial approximation total"])
        if nside not in tasks:
            tasks[nside] = bars.add_task(f"nside {nside}", total=total, note="")
        done = pixels["done"]
        bars.update(
            tasks[nside], completed=done, total=done if is_done and done else total, note=f"{left} left" if left else ""
        )


async def _best(client: Client, scan_id: str) -> str:
    result = await client.get(f"/scan/{scan_id}/result", include_deleted="true")
    best = best_fit(result.get("skyscan_result", {}))
    return "" if best is None else f"RA {best.ra:.2f}°, dec {best.dec:+.2f}° (nside {best.nside})"
