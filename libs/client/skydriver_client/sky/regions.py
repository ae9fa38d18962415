"""Regions of a sky: levels by Wilks' theorem, their calibration with systematics, and the highest posterior density."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from skydriver_client.sky.cells import Cells, Flags
from skydriver_client.sky.outlines import outlines
from skydriver_client.sky.reading import Floats


class Method(StrEnum):
    """How a region of 90 % is found."""

    WILKS = "wilks"
    """Twice the difference of the llh is below the quantile of chi² with two degrees of freedom."""
    SYSTEMATICS = "systematics"
    """The same with the levels that simulations of the event IC160427A gave: 22.2 (50 %) and 64.2 (90 %)."""
    POSTERIOR = "posterior"
    """The smallest region that holds this part of the probability, which is exp(-llh), normalized, with a flat prior."""


THREE_SIGMA = 0.9973
WILKS_LEVELS = {0.5: 1.39, 0.9: 4.61, THREE_SIGMA: 11.83}
"""Containment to 2 ΔLLH: the rounded values that IceCube's own tools use."""
SYSTEMATICS_LEVELS = {0.5: 22.2, 0.9: 64.2}


@dataclass(frozen=True, slots=True)
class BoxErrors:
    """The box around a region, from the best fit: degrees of RA and dec, all positive or 0.

    A region with a pole in it has RA errors of 180.
    """

    ra_plus: float
    ra_minus: float
    dec_plus: float
    dec_minus: float

    def radius(self, dec: float) -> float:
        """Return the circle's radius (degrees) that GCN notices give: sqrt(mean RA error · cos(dec) · mean dec error)."""
        ra_error, dec_error = (self.ra_plus + self.ra_minus) / 2, (self.dec_plus + self.dec_minus) / 2
        return math.sqrt(max(0.0, ra_error * math.cos(math.radians(dec)) * dec_error))


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the sky that holds the origin with a probability (``containment``)."""

    containment: float
    method: Method
    level: float
    """Wilks and systematics: the largest 2 ΔLLH inside. Posterior: the smallest probability density inside, per steradian."""
    cells: Cells = field(repr=False)
    inside: Flags = field(repr=False)

    @property
    def label(self) -> str:
        """``90 % (Wilks)``: containment and method."""
        share = "3σ" if self.containment == THREE_SIGMA else f"{100 * self.containment:g} %"
        kind = {
            Method.WILKS: "Wilks",
            Method.SYSTEMATICS: "IC160427A syst.",
            Method.POSTERIOR: "posterior",
        }[self.method]
        return f"{share} ({kind})"

    @property
    def area_deg2(self) -> float:
        """The sum of the areas of its pixels, in square degrees."""
        return float(self.cells.area[self.inside].sum() * (180 / np.pi) ** 2)

    def contains(self, ra: float, dec: float) -> bool:
        """Return whether a direction (degrees) is inside."""
        return bool(self.inside[self.cells.at(ra, dec)])

    def contours(self) -> list[Floats]:
        """Return the outlines of all pieces and holes: see ``outlines``. Empty when the region is the whole sky."""
        return outlines(self.cells, self.inside)

    def box(self, ra: float, dec: float) -> BoxErrors:
        """Return the box around the region, relative to a direction in degrees (the best fit)."""
        lines = self.contours()
        if not lines or self.contains(0.0, 90.0) or self.contains(0.0, -90.0):
            east, west = 180.0, 180.0
        else:
            offsets = (np.concatenate(lines)[:, 0] - ra + 180) % 360 - 180
            east, west = max(0.0, float(offsets.max())), max(0.0, float(-offsets.min()))
        decs = np.concatenate(lines)[:, 1] if lines else np.array([-90.0, 90.0])
        highest = 90.0 if self.contains(0.0, 90.0) else float(decs.max())
        lowest = -90.0 if self.contains(0.0, -90.0) else float(decs.min())
        return BoxErrors(east, west, max(0.0, highest - dec), max(0.0, dec - lowest))


def likelihood_region(cells: Cells, two_delta: Floats, containment: float, method: Method) -> Region:
    """Return the region below a level of 2 ΔLLH. Raises ValueError for a containment that the method has no level for."""
    if method is Method.SYSTEMATICS:
        if containment not in SYSTEMATICS_LEVELS:
            raise ValueError("containment: the method systematics has levels for 0.5 and 0.9 only")
        level = SYSTEMATICS_LEVELS[containment]
    else:
        level = WILKS_LEVELS.get(containment, -2 * math.log1p(-containment))
    with np.errstate(invalid="ignore"):
        inside = two_delta <= level
    return Region(containment, method, level, cells, inside)


def posterior_region(cells: Cells, density: Floats, containment: float) -> Region:
    """Return the smallest set of cells that holds a part of the probability; cells of equal density go together."""
    descending = np.argsort(-density, kind="stable")
    held = np.cumsum((density * cells.area)[descending])
    last = min(int(np.searchsorted(held, containment * (1 - 1e-12))), held.size - 1)
    level = float(density[descending[last]])
    return Region(containment, Method.POSTERIOR, level, cells, (density >= level) & (density > 0))
