"""HEALPix arithmetic on many pixels at once (RING scheme): directions, children, pixels near a direction.

Why not healpy: importing it costs half a second and 65 MB per process (it brings astropy along), and a sandbox has one
process per worker. The formulas are those of the HEALPix paper (Górski et al. 2005); the tests compare them with healpy.
"""

import math

import numpy as np
from numpy.typing import NDArray

from skydriver_sandbox.sphere import pixel_count

Pixels = NDArray[np.int64]
Vectors = NDArray[np.float64]

# Ring and longitude of the lowest corner of each of the twelve base faces, in units of nside.
_FACE_RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4], dtype=np.int64)
_FACE_PHI = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7], dtype=np.int64)


def _isqrt(values: Pixels) -> Pixels:
    # Exact for every pixel number that occurs: float64 holds integers up to 2**53.
    return np.sqrt(values.astype(np.float64) + 0.5).astype(np.int64)


def _rings(nside: int, pixels: Pixels) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Ring number from the north (1 … 4 nside − 1), place in it (from 1), quarter length, and shift, per pixel."""
    total, cap = pixel_count(nside), 2 * nside * (nside - 1)
    north, south = pixels < cap, pixels >= total - cap
    ring = np.empty_like(pixels)
    place = np.empty_like(pixels)
    quarter = np.full_like(pixels, nside)
    shift = np.zeros_like(pixels)

    p = pixels[north]
    r = (1 + _isqrt(1 + 2 * p)) >> 1
    ring[north], place[north], quarter[north] = r, p + 1 - 2 * r * (r - 1), r

    p = total - pixels[south]
    r = (1 + _isqrt(2 * p - 1)) >> 1
    ring[south], place[south], quarter[south] = 4 * nside - r, 4 * r + 1 - (p - 2 * r * (r - 1)), r

    belt = ~(north | south)
    p = pixels[belt] - cap
    ring[belt], place[belt] = p // (4 * nside) + nside, p % (4 * nside) + 1
    shift[belt] = (ring[belt] + nside) & 1
    return ring, place, quarter, shift


def vectors(nside: int, pixels: Pixels) -> Vectors:
    """Unit vectors to the pixels' centres, shape (len(pixels), 3)."""
    ring, place, quarter, shift = _rings(nside, pixels)
    z = (2 * nside - ring) * 2.0 / (3.0 * nside)
    polar = 1.0 - quarter * quarter / (3.0 * nside * nside)
    z = np.where(ring < nside, polar, np.where(ring > 3 * nside, -polar, z))
    offset = np.where((ring >= nside) & (ring <= 3 * nside) & (shift == 1), 1.0, 0.5)
    phi = (place - offset) * math.pi / (2 * quarter)
    rho = np.sqrt((1.0 - z) * (1.0 + z))
    return np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=1)


def _faces(nside: int, pixels: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """Base face and the coordinates (x, y) within it, per pixel."""
    ring, place, quarter, shift = _rings(nside, pixels)
    north, south = ring < nside, ring > 3 * nside
    from_belt = ring - nside + 1
    back = 2 * nside + 2 - from_belt
    falling = (place - from_belt // 2 + nside - 1) // nside
    rising = (place - back // 2 + nside - 1) // nside
    belt = np.where(rising == falling, rising | 4, np.where(rising < falling, rising, falling + 8))
    polar = (place - 1) // quarter
    face = np.where(north, polar, np.where(south, polar + 8, belt))
    down = ring - _FACE_RING[face] * nside + 1
    along = 2 * place - _FACE_PHI[face] * quarter - shift - 1
    along = np.where(along >= 2 * nside, along - 8 * nside, along)
    return face, (along - down) >> 1, (-along - down) >> 1


def _from_faces(nside: int, face: Pixels, x: Pixels, y: Pixels) -> Pixels:
    total, cap = pixel_count(nside), 2 * nside * (nside - 1)
    ring = _FACE_RING[face] * nside - x - y - 1
    north, south = ring < nside, ring > 3 * nside
    quarter = np.where(north, ring, np.where(south, 4 * nside - ring, nside))
    before = np.where(
        north,
        2 * quarter * (quarter - 1),
        np.where(south, total - 2 * (quarter + 1) * quarter, cap + (ring - nside) * 4 * nside),
    )
    shift = np.where(north | south, 0, (ring - nside) & 1)
    place = (_FACE_PHI[face] * quarter + x - y + 1 + shift) // 2
    place = np.where(place < 1, place + 4 * nside, np.where(place > 4 * quarter, place - 4 * quarter, place))
    result: Pixels = before + place - 1
    return result


def children(nside: int, pixels: Pixels, finer: int) -> Pixels:
    """All pixels of nside `finer` inside the given pixels of `nside`, (finer/nside)² each, ascending.

    Raises ValueError unless finer is a multiple of nside by a power of two.
    """
    factor, rest = divmod(finer, nside)
    if rest or factor < 1 or factor & (factor - 1):
        raise ValueError(f"nside {finer} does not divide the pixels of nside {nside}")
    face, x, y = _faces(nside, pixels)
    dx, dy = (grid.ravel() for grid in np.meshgrid(np.arange(factor), np.arange(factor), indexing="ij"))
    fine = _from_faces(
        finer,
        np.repeat(face, factor * factor),
        (x[:, None] * factor + dx[None, :]).ravel(),
        (y[:, None] * factor + dy[None, :]).ravel(),
    )
    return np.sort(fine)


def parents(nside: int, pixels: Pixels, coarser: int) -> Pixels:
    """For each pixel of `nside`, the pixel of nside `coarser` that contains it."""
    factor = nside // coarser
    face, x, y = _faces(nside, pixels)
    return _from_faces(coarser, face, x // factor, y // factor)


def within(nside: int, direction: Vectors, radius: float) -> Pixels:
    """Pixels whose centres lie closer than `radius` (radians) to the unit vector `direction`, ascending.

    Looks only at the rings the circle can touch, so a small circle is cheap at any nside.
    """
    theta = math.acos(max(-1.0, min(1.0, float(direction[2]))))
    top = _ring_above(nside, math.cos(max(0.0, theta - radius)))
    bottom = _ring_above(nside, math.cos(min(math.pi, theta + radius))) + 1
    first, last = _ring_start(nside, max(1, top)), _ring_start(nside, min(4 * nside, bottom + 1))
    candidates = np.arange(first, last, dtype=np.int64)
    offsets = vectors(nside, candidates) - direction[None, :]
    # Chord instead of dot product: arccos loses all digits for small angles.
    angles = 2.0 * np.arcsin(np.minimum(1.0, np.sqrt((offsets * offsets).sum(axis=1)) / 2.0))
    near: Pixels = candidates[angles < radius]
    return near


def _ring_above(nside: int, z: float) -> int:
    """Number of the last ring at or north of height z; 0 if there is none."""
    if abs(z) <= 2.0 / 3.0:
        return int(nside * (2.0 - 1.5 * z))
    ring = int(nside * math.sqrt(3.0 * (1.0 - abs(z))))
    return ring if z > 0 else max(0, 4 * nside - ring - 1)


def _ring_start(nside: int, ring: int) -> int:
    """First pixel of a ring; ring 4 nside is one past the last."""
    if ring < nside:
        return 2 * ring * (ring - 1)
    if ring <= 3 * nside:
        return 2 * nside * (nside - 1) + (ring - nside) * 4 * nside
    left = 4 * nside - ring
    return pixel_count(nside) - 2 * left * (left + 1)
