"""Cells: disjoint HEALPix pixels of several orders that cover the whole sky, each with the value of the finest scan of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy_healpix.core import healpix_to_lonlat, lonlat_to_healpix, nested_to_ring, ring_to_nested

from skydriver_client.sky.reading import Floats, Integers, ScannedPixels

SPHERE_DEG2 = 4 * np.pi * (180 / np.pi) ** 2
"""The whole sky in square degrees."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cells:
    """The sky, each point in exactly one cell. Arrays of one length, ascending by ``uniq``.

    order: log2 of the nside. pixel: HEALPix NESTED. llh: of the finest scanned pixel that contains the cell, NaN where nothing is
    scanned.
    """

    order: Integers
    pixel: Integers
    llh: Floats

    @property
    def uniq(self) -> Integers:
        """The IVOA's UNIQ of each cell: 4 · 4^order + pixel."""
        return 4 * 4**self.order + self.pixel

    @property
    def scanned(self) -> Flags:
        """Whether a cell has a value."""
        return np.isfinite(self.llh)

    @property
    def area(self) -> Floats:
        """Of each cell, in steradians."""
        return np.asarray(np.pi / 3 / 4.0**self.order, dtype=np.float64)

    @property
    def max_order(self) -> int:
        """The order of the finest cell."""
        return int(self.order.max())

    def at(self, ra: npt.ArrayLike, dec: npt.ArrayLike) -> Integers:
        """Return the number of the cell at each direction. ra, dec: degrees."""
        lon, lat = np.broadcast_arrays(np.asarray(ra, dtype=float) % 360, np.asarray(dec, dtype=float))
        finest = lonlat_to_healpix(lon * u.deg, lat * u.deg, 2**self.max_order, order="nested")
        return self.of_pixels(np.asarray(finest, dtype=np.int64))

    def of_pixels(self, finest: Integers) -> Integers:
        """Return the number of the cell around each NESTED pixel of ``max_order``."""
        start = self.pixel << (2 * (self.max_order - self.order))
        by_start = np.argsort(start)
        found: Integers = by_start[np.searchsorted(start[by_start], finest, side="right") - 1]
        return found


def cells_of(pixels: Sequence[ScannedPixels]) -> Cells:
    """Return the cells of scanned pixels, coarse nsides first.

    A pixel with finer ones inside is split: its children that nobody scanned keep its value.
    """
    scanned = {part.nside.bit_length() - 1: (nested(part.nside, part.index), part.llh) for part in pixels}
    finest = max(scanned)
    pixel, llh = np.arange(12, dtype=np.int64), np.full(12, np.nan)
    kept: list[tuple[int, Integers, Floats]] = []
    for order in range(finest + 1):
        if order in scanned:
            chosen, values = scanned[order]
            place = np.searchsorted(pixel, chosen)
            llh[place] = values
        finer = [index >> (2 * (deeper - order)) for deeper, (index, _) in scanned.items() if deeper > order]
        split = np.isin(pixel, np.concatenate(finer)) if finer else np.zeros(pixel.size, dtype=bool)
        kept.append((order, pixel[~split], llh[~split]))
        pixel = (4 * pixel[split, None] + np.arange(4)).ravel()
        llh = np.repeat(llh[split], 4)
    orders = np.concatenate([np.full(part.size, order, dtype=np.int64) for order, part, _ in kept])
    return Cells(orders, np.concatenate([part for _, part, _ in kept]), np.concatenate([values for _, _, values in kept]))


def nested(nside: int, ring: Integers) -> Integers:
    """Return NESTED numbers of RING ones."""
    return np.asarray(ring_to_nested(ring, nside), dtype=np.int64)


def ring_from_nested(nside: int, pixel: Integers) -> Integers:
    """Return RING numbers of NESTED ones."""
    return np.asarray(nested_to_ring(pixel, nside), dtype=np.int64)


def centres(nside: int, ring: Integers) -> tuple[Floats, Floats]:
    """Return RA and dec of RING pixels' centres, in degrees."""
    lon, lat = healpix_to_lonlat(ring, nside, order="ring")
    return np.asarray(lon.to_value(u.deg), dtype=np.float64) % 360, np.asarray(lat.to_value(u.deg), dtype=np.float64)


def centre(nside: int, ring: int) -> tuple[float, float]:
    """Return RA and dec of a RING pixel's centre, in degrees."""
    ra, dec = centres(nside, np.array([ring], dtype=np.int64))
    return float(ra[0]), float(dec[0])
