"""Which pixels to send next: pure rules over what has come back so far. Source: scanner contract 8."""

import math
from collections.abc import Mapping

import numpy as np

from skydriver_sandbox import healpix
from skydriver_sandbox.scanner.progression import Progression
from skydriver_sandbox.sphere import pixel_area, pixel_count

# Neighbours that differ this much in 2·llh are refined as well; in practice there are none.
_STEEP = 200_000.0
_POINTED_RADIUS = math.radians(3.5)

Pixel = tuple[int, int]
"""(nside, RING pixel)."""


def first_round(progression: Progression, pointed_at: tuple[float, float] | None) -> set[Pixel]:
    """Every pixel of the first nside; for a pointed scan those within 3.5° of (ra, dec), or the nearest one."""
    nside = progression.steps[0].nside
    if pointed_at is None:
        return {(nside, pixel) for pixel in range(pixel_count(nside))}
    ra, dec = pointed_at
    direction = np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])
    near = healpix.within(nside, direction, _POINTED_RADIUS)
    if not near.size:
        everything = np.arange(pixel_count(nside), dtype=np.int64)
        near = everything[[int(np.argmax(healpix.vectors(nside, everything) @ direction))]]
    return {(nside, int(pixel)) for pixel in near}


def refine(progression: Progression, finished: Mapping[int, Mapping[int, float]], best: Pixel) -> set[Pixel]:
    """Children of the pixels around the best one, for each consecutive pair of nsides; those sent before included.

    finished: nside → pixel → llh (NaN allowed). best: the finished pixel with the smallest llh of all.
    """
    direction = healpix.vectors(best[0], np.array([best[1]], dtype=np.int64))[0]
    chosen: set[Pixel] = set()
    for coarse, fine in zip(progression.steps, progression.steps[1:], strict=False):
        values = finished.get(coarse.nside)
        if not values:
            continue
        radius = math.sqrt(fine.extension * pixel_area(coarse.nside) / math.pi)
        parents = {int(pixel) for pixel in healpix.within(coarse.nside, direction, radius)} | steep_pixels(coarse.nside, values)
        if parents:
            pixels = healpix.children(coarse.nside, np.array(sorted(parents), dtype=np.int64), fine.nside)
            chosen.update((fine.nside, int(pixel)) for pixel in pixels)
    return chosen


def steep_pixels(nside: int, values: Mapping[int, float]) -> set[int]:
    """Finished pixels with a finished neighbour whose 2·llh differs by more than 200000."""
    finite = [llh for llh in values.values() if not math.isnan(llh)]
    if not finite or 2 * (max(finite) - min(finite)) <= _STEEP:
        return set()
    import healpy  # Heavy, and this rare case is the only one that needs it.

    found: set[int] = set()
    for pixel, llh in values.items():
        for neighbour in healpy.get_all_neighbours(nside, pixel):
            other = values.get(int(neighbour), math.nan)
            if 2 * abs(llh - other) > _STEEP:
                found.update((pixel, int(neighbour)))
    return found
