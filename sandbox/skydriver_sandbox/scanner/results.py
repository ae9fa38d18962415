"""The whole map so far, in skyreader's format, version 1. Source: scanner contract 10."""

import math
from collections.abc import Mapping
from typing import Any

from skydriver_sandbox.events import Metadata
from skydriver_sandbox.likelihood import Reconstruction

COLUMNS = ["index", "llh", "E_in", "E_tot", "X", "Y", "Z", "T"]
NAN = "<skyreader.nan>"


def _cell(value: float) -> float | str:
    return NAN if math.isnan(value) else value


def result_json(finished: Mapping[int, Mapping[int, Reconstruction]], metadata: Metadata, *, complete: bool) -> dict[str, Any]:
    """One entry per nside with a finished pixel, in order of first finish; rows sorted by index. Empty: `{}`."""
    result: dict[str, Any] = {}
    for nside, pixels in finished.items():
        rows = [
            [pixel, *map(_cell, (r.llh, r.reco_losses_inside, r.reco_losses_total, *r.position, r.time))]
            for pixel, r in sorted(pixels.items())
        ]
        header = {"nside": nside, "complete": complete, **metadata.as_json()}
        result[f"nside-{nside}"] = {"columns": COLUMNS, "data": rows, "metadata": header}
    return result
