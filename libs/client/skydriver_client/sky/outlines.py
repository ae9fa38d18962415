"""The outline of a set of cells as closed lines on the sphere: every piece, every hole, over RA 0 and around the poles.

A line follows the edges of pixels, so what it encloses has exactly the area that the sum of the pixels has.
"""

import numpy as np
from astropy import units as u
from astropy_healpix.core import healpix_to_lonlat

from skydriver_client.sky.cells import Cells, Flags
from skydriver_client.sky.reading import Floats, Integers

_SAME = 1e-12
"""Coordinates that differ less than this are of one corner, computed from two of its pixels."""
_SMOOTH_ORDER = 6
"""Edges of coarse pixels are curves: they are drawn in steps of this order."""


def outlines(cells: Cells, inside: Flags) -> list[Floats]:
    """Return the outlines of the chosen cells: arrays of (RA, dec) in degrees, the first point repeated at the end.

    RA is continuous along a line, so it may leave 0 to 360. Seen from inside the sphere, with east to the left, outer lines run
    counterclockwise and holes clockwise.
    """
    starts, ends, owners, vertices = _edges(cells, np.flatnonzero(inside))
    # an edge between two chosen cells is there twice, once in each direction
    count = len(vertices)
    forward, backward = starts * count + ends, ends * count + starts
    outer = ~np.isin(forward, backward)
    starts, ends, owners = starts[outer], ends[outer], owners[outer]
    return [_unwrapped(vertices[ring]) for ring in _rings(starts, ends, owners)]


def _edges(cells: Cells, chosen: Integers) -> tuple[Integers, Integers, Integers, Floats]:
    """Return edges of the chosen cells in steps of the finest pixel of the sky: start, end, owner; and points."""
    finest = max(cells.max_order, _SMOOTH_ORDER)
    points: list[Floats] = []
    owners: list[Integers] = []
    sizes: list[int] = []
    for order in np.unique(cells.order[chosen]):
        number = chosen[cells.order[chosen] == order]
        steps = 2 ** (finest - int(order))
        along = np.arange(steps) / steps
        zero, one = np.zeros(steps), np.ones(steps)
        dx = np.concatenate([along, one, 1 - along, zero])
        dy = np.concatenate([zero, along, one, 1 - along])
        pixel = np.repeat(cells.pixel[number], dx.size)
        lon, lat = healpix_to_lonlat(
            pixel, 2 ** int(order), dx=np.tile(dx, number.size), dy=np.tile(dy, number.size), order="nested"
        )
        lon, lat = lon.to_value(u.rad), lat.to_value(u.rad)
        points.append(np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1))
        owners.append(np.repeat(number, dx.size))
        sizes += [dx.size] * number.size
    if not points:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, nothing, np.empty((0, 3))
    all_points = np.concatenate(points)
    keys = np.stack([_clusters(coordinate) for coordinate in all_points.T], axis=-1)
    _, first, starts = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    starts = starts.ravel()
    ends = np.roll(starts, -1)
    last = np.cumsum(sizes) - 1
    ends[last] = starts[np.concatenate([[0], last[:-1] + 1])]
    return starts.astype(np.int64), ends.astype(np.int64), np.concatenate(owners), all_points[first]


def _clusters(values: Floats) -> Integers:
    """Return a number for each value, the same for those that are as good as equal. Rounding would separate some of them."""
    ascending = np.argsort(values, kind="stable")
    numbers = np.empty(values.size, dtype=np.int64)
    numbers[ascending] = np.cumsum(np.diff(values[ascending], prepend=values[ascending[0]]) > _SAME)
    return numbers


def _rings(starts: Integers, ends: Integers, owners: Integers) -> list[Integers]:
    """Join directed edges to closed lines. Where two pieces touch in a corner, a line stays with the cell it came along."""
    leaving: dict[int, list[int]] = {}
    for edge, start in enumerate(starts.tolist()):
        leaving.setdefault(start, []).append(edge)
    rings = []
    used = np.zeros(starts.size, dtype=bool)
    for first in range(starts.size):
        if used[first]:
            continue
        ring, edge = [], first
        while not used[edge]:
            used[edge] = True
            ring.append(int(starts[edge]))
            following = [each for each in leaving.get(int(ends[edge]), ()) if not used[each]]
            if not following:
                break
            edge = next((each for each in following if owners[each] == owners[edge]), following[0])
        rings.append(np.array([*ring, ring[0]], dtype=np.int64))
    return rings


def _unwrapped(points: Floats) -> Floats:
    dec = np.degrees(np.arcsin(np.clip(points[:, 2], -1, 1)))
    ra = np.degrees(np.arctan2(points[:, 1], points[:, 0])) % 360
    polar = np.abs(points[:, 2]) > 1 - 1e-15
    if polar.any() and not polar.all():  # the pole has every RA: give it that of the point before it
        known = np.flatnonzero(~polar)
        before = known[np.searchsorted(known, np.flatnonzero(polar)) - 1]
        ra[polar] = ra[before]
    return np.stack([np.degrees(np.unwrap(np.radians(ra))), dec], axis=-1)
