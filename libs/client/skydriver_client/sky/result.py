"""A scan's result as a sky: what ``read_result`` returns."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from skydriver_client.sky.cells import SPHERE_DEG2, Cells, cells_of, centre
from skydriver_client.sky.reading import EventMetadata, Floats, ReadResult, parse
from skydriver_client.sky.regions import THREE_SIGMA, Method, Region, likelihood_region, posterior_region

__all__ = ["BestFit", "EventMetadata", "SkyResult", "read_result"]


@dataclass(frozen=True, slots=True)
class BestFit:
    """The pixel with the smallest llh of all nsides. index: HEALPix RING. ra, dec: of its centre, in degrees."""

    nside: int
    index: int
    llh: float
    ra: float
    dec: float
    columns: dict[str, float] = field(repr=False)
    """What else the scanner reported of it: E_in, E_tot, X, Y, Z, T. May hold NaN."""


class SkyResult:
    """One result, partial or final. Immutable; regions are computed when they are first asked for."""

    def __init__(self, read: ReadResult) -> None:
        self._read = read
        self._regions: dict[tuple[float, Method], Region] = {}

    def __repr__(self) -> str:
        best = self.best_fit
        return f"<SkyResult {self.event.name}: {self.pixel_count} pixels, best fit RA {best.ra:.3f}°, dec {best.dec:+.3f}°>"

    @property
    def content(self) -> bytes:
        """The bytes that it was read from."""
        return self._read.content

    @property
    def digest(self) -> str:
        """``sha256:…`` of ``content``: every file and picture of this result names it."""
        return self._read.digest

    @property
    def event(self) -> EventMetadata:
        """The event that was scanned."""
        return self._read.event

    @property
    def scan_id(self) -> str | None:
        """The scan's id, where the content names it."""
        return self._read.scan_id

    @property
    def is_final(self) -> bool | None:
        """Whether the scan was complete, where the content says it."""
        return self._read.is_final

    @property
    def nsides(self) -> tuple[int, ...]:
        """The nsides that have finished pixels, the coarsest first."""
        return tuple(part.nside for part in self._read.pixels)

    @property
    def pixel_count(self) -> int:
        """The number of finished pixels with a finite llh."""
        return sum(part.index.size for part in self._read.pixels)

    @property
    def without_value(self) -> int:
        """The number of finished pixels whose llh is NaN or infinite. They are treated as not scanned."""
        return self._read.without_value

    @property
    def read(self) -> ReadResult:
        """The pixels as the scanner reported them, by nside."""
        return self._read

    @cached_property
    def cells(self) -> Cells:
        """The whole sky in disjoint cells, each with the value of the finest scan of it."""
        return cells_of(self._read.pixels)

    @cached_property
    def done(self) -> float:
        """The part of the sky that has a value, from 0 to 1."""
        return float(self.cells.area[self.cells.scanned].sum() / (4 * np.pi))

    @cached_property
    def best_fit(self) -> BestFit:
        """The pixel with the smallest llh over all nsides; the finer one of two with the same."""
        part = min(reversed(self._read.pixels), key=lambda each: float(each.llh.min()))
        place = int(part.llh.argmin())
        ra, dec = centre(part.nside, int(part.index[place]))
        others = {name: float(values[place]) for name, values in part.columns.items()}
        return BestFit(part.nside, int(part.index[place]), float(part.llh[place]), ra, dec, others)

    @cached_property
    def two_delta_llh(self) -> Floats:
        """Twice the difference of each cell's llh to the smallest of all cells; NaN where nothing is scanned."""
        return 2 * (self.cells.llh - np.nanmin(self.cells.llh))

    @cached_property
    def density(self) -> Floats:
        """The probability of each cell per steradian: exp(-llh), normalized; 0 where nothing is scanned. Sum of density · area is 1."""
        weight = np.nan_to_num(np.exp(-self.two_delta_llh / 2), nan=0.0)
        density: Floats = weight / (weight * self.cells.area).sum()
        return density

    def region(self, containment: float = 0.9, method: Method | str = Method.WILKS) -> Region:
        """Return the region that holds the origin with a probability: 0.5, 0.9, ``THREE_SIGMA`` or any other below 1.

        Raises ValueError for a containment outside 0 to 1, or one that the method has no level for.
        """
        method = Method(method)
        if not 0 < containment < 1:
            raise ValueError("containment: expected a number between 0 and 1")
        key = (containment, method)
        if key not in self._regions:
            self._regions[key] = (
                posterior_region(self.cells, self.density, containment)
                if method is Method.POSTERIOR
                else likelihood_region(self.cells, self.two_delta_llh, containment, method)
            )
        return self._regions[key]

    def regions(self, method: Method | str = Method.WILKS) -> tuple[Region, ...]:
        """Return the regions of 50 % and 90 %, and of 3σ where the method has it."""
        method = Method(method)
        wanted = (0.5, 0.9) if method is Method.SYSTEMATICS else (0.5, 0.9, THREE_SIGMA)
        return tuple(self.region(containment, method) for containment in wanted)

    def credible_level(self, ra: float, dec: float, method: Method | str = Method.WILKS) -> float:
        """Return the containment of the smallest region that contains a direction in degrees: 0.35 is well inside 90 %.

        NaN where nothing is scanned. Raises ValueError for a direction that is not on the sky, and for the method systematics.
        """
        method = Method(method)
        if method is Method.SYSTEMATICS:
            raise ValueError("method: systematics has two levels only, use wilks or posterior")
        if not (math.isfinite(ra) and -90 <= dec <= 90):
            raise ValueError("ra, dec: expected degrees, dec from -90 to 90")
        number = int(self.cells.at(ra, dec))
        if not self.cells.scanned[number]:
            return math.nan
        if method is Method.WILKS:
            return -math.expm1(-float(self.two_delta_llh[number]) / 2)
        probability = self.density * self.cells.area
        return float(min(1.0, probability[self.density >= self.density[number]].sum()))

    def probability_at(self, ra: float, dec: float) -> float:
        """Return the probability per steradian at a direction in degrees."""
        return float(self.density[self.cells.at(ra, dec)])

    @property
    def unscanned_deg2(self) -> float:
        """The area without a value, in square degrees."""
        return (1 - self.done) * SPHERE_DEG2


def read_result(content: bytes | str | dict[str, Any]) -> SkyResult:
    """Read a result: the response of ``GET /scan/…/result``, or the skymap in it alone.

    Raises UnreadableResult with one line for people: not JSON, no finished pixel, an index that is no pixel.
    """
    return SkyResult(parse(content))
