"""From the JSON of a result to arrays. Everything that may be wrong with it is found here, and becomes one line."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from skydriver_client.sky.errors import UnreadableResult

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MAX_NSIDE = 2**20
"""Finer than any scan; the numbers of sub-pixels stay far from 64 bits."""
_NAN_TEXT = "<skyreader.nan>"
"""How skyreader writes NaN into JSON."""


@dataclass(frozen=True, slots=True)
class EventMetadata:
    """Which event was scanned. mjd: modified Julian date (UTC) of the event. None: the result does not say."""

    run_id: int | None = None
    event_id: int | None = None
    event_type: str = ""
    mjd: float | None = None
    is_real_event: bool | None = None

    @property
    def name(self) -> str:
        """``run00136662.evt000035405932.neutrino``: how files of IceCube's follow-up are named. Without a run: ``scan``."""
        if self.run_id is None or self.event_id is None:
            return "scan"
        kind = re.sub(r"[^A-Za-z0-9_-]+", "-", self.event_type).strip("-") or "event"
        return f"run{self.run_id:08d}.evt{self.event_id:012d}.{kind}"


@dataclass(frozen=True, slots=True)
class ScannedPixels:
    """The finished pixels of one nside, ascending. index: HEALPix RING. llh: minus log-likelihood, always finite."""

    nside: int
    index: Integers
    llh: Floats
    columns: dict[str, Floats] = field(repr=False)
    """Further columns as the scanner named them (E_in, E_tot, X, Y, Z, T), in the order of ``index``; may hold NaN."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a result says. content: its bytes as they came."""

    content: bytes = field(repr=False)
    pixels: tuple[ScannedPixels, ...]
    event: EventMetadata
    without_value: int
    """Finished pixels whose llh is NaN or infinite: a reconstruction that did not converge. They are left out."""
    scan_id: str | None
    is_final: bool | None

    @property
    def digest(self) -> str:
        """``sha256:…`` of the bytes."""
        return "sha256:" + hashlib.sha256(self.content).hexdigest()


def parse(content: bytes | str | dict[str, Any]) -> ReadResult:
    """Return the pixels of a result: what ``GET /scan/…/result`` responds with, or the skymap in it alone.

    Raises UnreadableResult: no JSON, no result, no finished pixel, or a pixel that cannot be on the sky.
    """
    raw = (
        json.dumps(content).encode() if isinstance(content, dict) else content.encode() if isinstance(content, str) else content
    )
    document = _document(raw) if not isinstance(content, dict) else content
    skymap, scan_id, is_final = document, None, None
    if "skyscan_result" in document:
        skymap = document["skyscan_result"]
        scan_id = document["scan_id"] if isinstance(document.get("scan_id"), str) else None
        is_final = document["is_final"] if isinstance(document.get("is_final"), bool) else None
        if not isinstance(skymap, dict):
            raise UnreadableResult("the result is not readable: skyscan_result is not an object")
    if not skymap:
        raise UnreadableResult("the scan has no result yet: no pixel is finished")
    parts = [_part(name, part) for name, part in skymap.items() if name.startswith("nside-")]
    if not parts:
        raise UnreadableResult("the file is not a result: it has no pixels (nside-8, nside-64, …)")
    pixels = tuple(sorted((part for part, _ in parts if part.index.size), key=lambda part: part.nside))
    without_value = sum(skipped for _, skipped in parts)
    if not pixels:
        raise UnreadableResult(
            f"none of the {without_value} finished pixels has a finite llh"
            if without_value
            else "the scan has no result yet: no pixel is finished"
        )
    return ReadResult(raw, pixels, _event(skymap), without_value, scan_id, is_final)


def _document(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        raise UnreadableResult("the file is empty")
    try:
        document = json.loads(raw)
    except UnicodeDecodeError as error:
        raise UnreadableResult(f"the file is not JSON: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise UnreadableResult(f"the file is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise UnreadableResult("the file is not a result: it is nested too deeply") from error
    if not isinstance(document, dict):
        raise UnreadableResult("the file is not a result: expected a JSON object")
    return document


def _part(name: str, part: Any) -> tuple[ScannedPixels, int]:
    """Return the pixels of one nside, and the number of those without a finite llh."""
    text = name.removeprefix("nside-")
    nside = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if not 0 < nside <= _MAX_NSIDE or nside & (nside - 1):
        raise UnreadableResult(f"{name}: an nside is a power of two between 1 and {_MAX_NSIDE}")
    if not (isinstance(part, dict) and isinstance(part.get("columns"), list) and isinstance(part.get("data"), list)):
        raise UnreadableResult(f"{name}: columns and data are missing")
    columns, rows = part["columns"], part["data"]
    if not ("index" in columns and "llh" in columns and all(isinstance(column, str) for column in columns)):
        raise UnreadableResult(f"{name}: the columns index and llh are missing")
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise UnreadableResult(f"{name}: every row of data must have {len(columns)} values")
    try:
        table = np.array([[_number(value) for value in row] for row in rows], dtype=np.float64).reshape(-1, len(columns))
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableResult(f"{name}: data must be numbers: {error}") from error
    index, llh = table[:, columns.index("index")], table[:, columns.index("llh")]
    bad = ~((index >= 0) & (index < 12 * nside * nside) & (index == np.floor(index)))
    if bad.any():
        raise UnreadableResult(
            f"{name}: {index[bad][0]:g} is not a pixel: expected an integer from 0 to {12 * nside * nside - 1}"
        )
    # a pixel that is there twice: the last report of it counts
    _, last = np.unique(index[::-1], return_index=True)
    chosen = index.size - 1 - last
    finite = chosen[np.isfinite(llh[chosen])]
    others = {column: table[finite, number] for number, column in enumerate(columns) if column not in ("index", "llh")}
    return ScannedPixels(nside, index[finite].astype(np.int64), llh[finite], others), int(chosen.size - finite.size)


def _number(value: Any) -> float:
    if value is None or value == _NAN_TEXT:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"found {str(value)[:40]!r}")
    return float(value)


def _event(skymap: dict[str, Any]) -> EventMetadata:
    for part in skymap.values():
        metadata = part.get("metadata") if isinstance(part, dict) else None
        if isinstance(metadata, dict):
            return EventMetadata(
                run_id=_integer(metadata.get("run_id")),
                event_id=_integer(metadata.get("event_id")),
                event_type=metadata["event_type"] if isinstance(metadata.get("event_type"), str) else "",
                mjd=_finite(metadata.get("mjd")),
                is_real_event=metadata["is_real_event"] if isinstance(metadata.get("is_real_event"), bool) else None,
            )
    return EventMetadata()


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
