"""Results of scans as skies: best fit, regions, contours; pictures and files of them.

Wants the extra ``[fits]`` (numpy, astropy, astropy-healpix), pictures want ``[plot]`` (matplotlib, too). Nothing else of this
distribution imports this package, so that the client installs without them.
"""

from skydriver_client.sky.errors import MissingExtra, UnreadableResult, require

for _module in ("numpy", "astropy", "astropy_healpix"):
    require(_module, "fits")

from skydriver_client.sky.compare import Comparison, compare  # noqa: E402
from skydriver_client.sky.regions import BoxErrors, Method, Region  # noqa: E402
from skydriver_client.sky.result import BestFit, EventMetadata, SkyResult, read_result  # noqa: E402

__all__ = [
    "BestFit",
    "BoxErrors",
    "Comparison",
    "EventMetadata",
    "Method",
    "MissingExtra",
    "Region",
    "SkyResult",
    "UnreadableResult",
    "compare",
    "read_result",
]
