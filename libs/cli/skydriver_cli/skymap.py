"""Read a skymap: its best fit, and a small picture of the sky. Format: scanner contract, section 10."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class BestFit:
    """The pixel with the smallest llh over all nsides. ra, dec: degrees. llh: as the scanner gave it."""

    nside: int
    pixel: int
    llh: float
    ra: float
    dec: float


def best_fit(skymap: dict[str, Any]) -> BestFit | None:
    """Return the best pixel of a skymap, or None when it has no pixel yet."""
    best = min(_pixels(skymap), key=lambda row: row[2], default=None)
    if best is None:
        return None
    theta, phi = pixel_to_angles(best[0], best[1])
    return BestFit(best[0], best[1], best[2], math.degrees(phi), 90 - math.degrees(theta))


def pixel_counts(skymap: dict[str, Any]) -> dict[int, int]:
    """Return the number of pixels of each nside, the coarsest first."""
    return dict(sorted(Counter(row[0] for row in _pixels(skymap)).items()))


def pixel_to_angles(nside: int, pixel: int) -> tuple[float, float]:
    """Return colatitude and longitude (radians) of a pixel's centre in HEALPix RING order (Gorski et al. 2005, section 5)."""
    total, cap = 12 * nside * nside, 2 * nside * (nside - 1)
    if pixel < cap:
        ring = (1 + math.isqrt(1 + 2 * pixel)) // 2
        step = pixel + 1 - 2 * ring * (ring - 1)
        return math.acos(1 - ring * ring / (3 * nside * nside)), (step - 0.5) * math.pi / (2 * ring)
    if pixel < total - cap:
        offset = pixel - cap
        ring, step = offset // (4 * nside) + nside, offset % (4 * nside) + 1
        shift = 0.5 if (ring + nside) % 2 == 0 else 1.0
        return math.acos((2 * nside - ring) * 2 / (3 * nside)), (step - shift) * math.pi / (2 * nside)
    offset = total - pixel
    ring = (1 + math.isqrt(2 * offset - 1)) // 2
    step = 4 * ring + 1 - (offset - 2 * ring * (ring - 1))
    return math.acos(-1 + ring * ring / (3 * nside * nside)), (step - 0.5) * math.pi / (2 * ring)


def picture(skymap: dict[str, Any], *, width: int = 72, height: int = 18) -> list[str]:
    """Return the coarsest nside as lines of text: RA from 360 to 0 degrees to the right, dec from +90 to -90 downwards; ``@`` is best."""
    nsides = sorted({row[0] for row in _pixels(skymap)})
    if not nsides:
        return []
    rows = [row for row in _pixels(skymap) if row[0] == nsides[0]]
    low, high = min(row[2] for row in rows), max(row[2] for row in rows)
    sky = [[" "] * width for _ in range(height)]
    worst = [[math.inf] * width for _ in range(height)]
    for nside, pixel, llh in rows:
        theta, phi = pixel_to_angles(nside, pixel)
        x, y = int((1 - phi / (2 * math.pi)) * (width - 1)), min(height - 1, int(theta / math.pi * height))
        if llh < worst[y][x]:
            worst[y][x] = llh
            likeness = 1 - (llh - low) / (high - low) if high > low else 1.0
            sky[y][x] = _SHADES[max(1, min(len(_SHADES) - 1, int(likeness**3 * (len(_SHADES) - 1))))]
    return ["".join(line) for line in sky]


def _pixels(skymap: Any) -> Iterator[tuple[int, int, float]]:
    """Yield (nside, pixel, llh) of every row whose llh is a finite number; skip malformed rows."""
    for name, part in skymap.items() if isinstance(skymap, dict) else ():
        nside = name.removeprefix("nside-")
        if not (nside.isdecimal() and int(nside) > 0 and isinstance(part, dict) and isinstance(part.get("data"), list)):
            continue
        columns = part.get("columns")
        if not (isinstance(columns, list) and "index" in columns and "llh" in columns):
            continue
        index, llh = columns.index("index"), columns.index("llh")
        for row in part["data"]:
            if not (isinstance(row, list) and len(row) > max(index, llh) and _is_number(row[llh]) and _is_number(row[index])):
                continue
            if 0 <= row[index] < 12 * int(nside) ** 2:
                yield int(nside), int(row[index]), float(row[llh])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
