"""Results of scans made up: a valley of the llh around a direction, scanned coarsely everywhere and finely where it is deep."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import healpy
import numpy as np

REAL_RESULT = Path(__file__).parents[3] / "shared/data/result_with_nan.json"
"""A scanner's own; tests that want it skip without it."""
EVENT = {"run_id": 136662, "event_id": 35405932, "event_type": "neutrino", "mjd": 59723.32051140454, "is_real_event": True}


def skymap(
    ra: float = 200.0,
    dec: float = 20.0,
    *,
    sigma: float = 2.0,
    nsides: Iterable[int] = (8, 64, 256),
    done: float = 1.0,
    valleys: Iterable[tuple[float, float]] = (),
) -> dict[str, Any]:
    """A skymap whose llh is 1000 + (distance / sigma)² / 2, distances in degrees; further valleys are as deep.

    done: the part of each nside after the first that is finished.
    """  # fmt: skip
    found: dict[str, Any] = {}
    coarser, deep = 0, np.empty(0, dtype=int)
    for number, nside in enumerate(nsides):
        index = np.arange(12 * nside * nside)
        if coarser:
            index = index[np.isin(healpy.ang2pix(coarser, *healpy.pix2ang(nside, index)), deep)]
            index = index[: max(1, int(done * index.size))]
        llh = _llh(nside, index, [(ra, dec), *valleys], sigma)
        energy = 1e4 + index.astype(float)
        rows = [[int(i), float(value), float(e), float(e) * 2] for i, value, e in zip(index, llh, energy, strict=True)]
        found[f"nside-{nside}"] = {
            "columns": ["index", "llh", "E_in", "E_tot"], "data": rows, "metadata": {"nside": nside, **EVENT}
        }  # fmt: skip
        coarser, deep = nside, index[np.argsort(llh)][: 48 * (number + 1)]
    return found


def _llh(nside: int, index: np.ndarray, centres: list[tuple[float, float]], sigma: float) -> np.ndarray:
    pixels = np.array(healpy.pix2vec(nside, index))
    distances = [np.degrees(np.arccos(np.clip(healpy.ang2vec(ra, dec, lonlat=True) @ pixels, -1, 1))) for ra, dec in centres]
    llh: np.ndarray = 1000 + (np.min(distances, axis=0) / sigma) ** 2 / 2
    return llh


def response(found: dict[str, Any], *, final: bool = True) -> bytes:
    """What ``GET /scan/…/result`` responds with."""
    return json.dumps({"scan_id": "18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c", "is_final": final, "skyscan_result": found}).encode()
