"""Two results of one event side by side: five numbers, and the difference of their maps."""

from dataclasses import dataclass, field

import numpy as np

from skydriver_client.sky.cells import Cells, cells_of, ring_from_nested
from skydriver_client.sky.reading import Floats, ScannedPixels
from skydriver_client.sky.regions import Method, Region
from skydriver_client.sky.result import SkyResult


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two results differ. Areas in square degrees, distances in degrees."""

    distance: float
    """Between the two best fits, along the great circle."""
    area_a: float
    area_b: float
    """Of the 90 % regions."""
    overlap: float
    """The area in both 90 % regions divided by the area in either: 1 when they are the same, 0 when they do not touch."""
    a_in_b: float
    b_in_a: float
    """The containment of A's best fit in B's map, and the other way round; NaN where it is not scanned."""
    cells: Cells = field(repr=False)
    """The sky in cells of both; their llh is unused."""
    difference: Floats = field(repr=False)
    """2 ΔLLH of B minus that of A in each cell; NaN where one of them is not scanned."""

    @property
    def area_ratio(self) -> float:
        """The area of B's region divided by that of A's."""
        return self.area_b / self.area_a

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference of 2 ΔLLH; NaN when no cell is scanned by both."""
        return float(np.nanmax(np.abs(self.difference))) if np.isfinite(self.difference).any() else float("nan")


def compare(a: SkyResult, b: SkyResult, *, containment: float = 0.9, method: Method | str = Method.WILKS) -> Comparison:
    """Compare two results, of any nsides, partial or final."""
    common = _common_cells(a.cells, b.cells)
    at_a, at_b = a.cells.of_pixels(_at_order(common, a.cells)), b.cells.of_pixels(_at_order(common, b.cells))
    region_a, region_b = a.region(containment, method), b.region(containment, method)
    in_a, in_b = region_a.inside[at_a], region_b.inside[at_b]
    either = float(common.area[in_a | in_b].sum())
    best_a, best_b = a.best_fit, b.best_fit
    level_method = Method.WILKS if Method(method) is Method.SYSTEMATICS else method
    return Comparison(
        distance=separation(best_a.ra, best_a.dec, best_b.ra, best_b.dec),
        area_a=_area(region_a),
        area_b=_area(region_b),
        overlap=float(common.area[in_a & in_b].sum()) / either,
        a_in_b=b.credible_level(best_a.ra, best_a.dec, level_method),
        b_in_a=a.credible_level(best_b.ra, best_b.dec, level_method),
        cells=common,
        difference=b.two_delta_llh[at_b] - a.two_delta_llh[at_a],
    )


def separation(ra_1: float, dec_1: float, ra_2: float, dec_2: float) -> float:
    """Return the angle between two directions, all in degrees; exact for small angles and for opposite ones."""
    delta = np.radians(ra_2 - ra_1)
    one, two = np.radians(dec_1), np.radians(dec_2)
    across = np.hypot(np.cos(two) * np.sin(delta), np.cos(one) * np.sin(two) - np.sin(one) * np.cos(two) * np.cos(delta))
    along = np.sin(one) * np.sin(two) + np.cos(one) * np.cos(two) * np.cos(delta)
    return float(np.degrees(np.arctan2(across, along)))


def _area(region: Region) -> float:
    return region.area_deg2


def _common_cells(a: Cells, b: Cells) -> Cells:
    """Return cells that lie in exactly one cell of each."""
    orders = np.union1d(a.order, b.order)
    parts = []
    for order in orders.tolist():
        pixel = np.union1d(a.pixel[a.order == order], b.pixel[b.order == order])
        parts.append(ScannedPixels(2**order, ring_from_nested(2**order, pixel), np.zeros(pixel.size), {}))
    return cells_of(parts)


def _at_order(common: Cells, of: Cells) -> np.typing.NDArray[np.int64]:
    """Return the first pixel of each common cell at the finest order of one of the two."""
    shift = 2 * (of.max_order - common.order)
    return np.where(shift >= 0, common.pixel << np.maximum(shift, 0), common.pixel >> np.maximum(-shift, 0))
