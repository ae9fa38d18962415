"""FITS tables: the multi-order map, the flat maps, contours as MOC. Headers as each reader of the field demands them.

mocpy reads the first cards of the table in a fixed order: nothing may stand between TFIELDS, TTYPE1, TFORM1, TTYPE2 and TFORM2.
"""

import gzip
import io
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time

from skydriver_client.sky.cells import centres, nested
from skydriver_client.sky.reading import Floats, Integers
from skydriver_client.sky.regions import Region
from skydriver_client.sky.result import SkyResult

Card = tuple[str, Any, str]
_CREATOR = "skydriver-client"
MAX_FLAT_NSIDE = 4096
"""A flat map of the next nside would take 6 GB of memory."""


def multiorder_fits(sky: SkyResult, *, url: str | None = None) -> bytes:
    """Return the map as a multi-order FITS file: UNIQ and PROBDENSITY (sr-1), ascending, the whole sky, disjoint, finite.

    url: where the scan can be seen, for the header.
    """
    cells = sky.cells
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("UNIQ", "K", array=cells.uniq),
            fits.Column("PROBDENSITY", "D", unit="sr-1", array=sky.density),
        ]
    )
    _add(table.header, [("PIXTYPE", "HEALPIX", "HEALPix pixelation"), ("ORDERING", "NUNIQ", "pixels of several orders")])
    _add(table.header, [("COORDSYS", "C", "equatorial (ICRS)"), ("MOCORDER", cells.max_order, "highest order")])
    _add(table.header, [("INDXSCHM", "EXPLICIT", "pixels are named")])
    _add(table.header, _about(sky, url))
    return _file(table)


def flat_fits(sky: SkyResult, kind: str = "probability") -> bytes:
    """Return the map at the finest nside, gzipped, RING, all pixels: ``probability`` (PROB, pix-1) or ``llh`` (2DLLH, NaN unscanned).

    Raises ValueError for another kind, and for an nside above ``MAX_FLAT_NSIDE``.
    """
    nside = 2**sky.cells.max_order
    if nside > MAX_FLAT_NSIDE:
        raise ValueError(
            f"a flat map has an nside of at most {MAX_FLAT_NSIDE}, this result has {nside}: use the multi-order map"
        )
    number = sky.cells.of_pixels(nested(nside, np.arange(12 * nside * nside)))
    if kind == "probability":
        name, unit, values = "PROB", "pix-1", sky.density[number] * (math.pi / 3 / nside**2)
    elif kind == "llh":
        name, unit, values = "2DLLH", None, sky.two_delta_llh[number]
    else:
        raise ValueError("kind: expected probability or llh")
    width = 1024 if values.size % 1024 == 0 else 1
    rows = values.reshape(-1, width) if width > 1 else values
    table = fits.BinTableHDU.from_columns([fits.Column(name, f"{width if width > 1 else ''}D", unit=unit, array=rows)])
    _add(table.header, [("PIXTYPE", "HEALPIX", "HEALPix pixelation"), ("ORDERING", "RING", "order of the pixels")])
    _add(table.header, [("COORDSYS", "C", "equatorial (ICRS)"), ("NSIDE", nside, "of the finest scan")])
    _add(table.header, [("FIRSTPIX", 0, "first pixel"), ("LASTPIX", values.size - 1, "last pixel")])
    _add(table.header, [("INDXSCHM", "IMPLICIT", "all pixels in order")])
    _add(table.header, _about(sky, None))
    return gzip.compress(_file(table), compresslevel=6, mtime=0)


def moc_cells(region: Region) -> tuple[Integers, Integers]:
    """Return (order, NESTED pixel) of a region's cells, four of one parent joined to it as often as that is possible."""
    order, pixel = region.cells.order[region.inside], region.cells.pixel[region.inside]
    orders, pixels = [], []
    waiting = np.empty(0, dtype=np.int64)
    for at in range(region.cells.max_order, -1, -1):
        here = np.sort(np.concatenate([waiting, pixel[order == at]]))
        parents, counts = np.unique(here >> 2, return_counts=True)
        whole = parents[counts == 4] if at > 0 else np.empty(0, dtype=np.int64)
        single = here[~np.isin(here >> 2, whole)]
        orders.append(np.full(single.size, at, dtype=np.int64))
        pixels.append(single)
        waiting = whole
    return np.concatenate(orders[::-1]), np.concatenate(pixels[::-1])


def moc_fits(region: Region, sky: SkyResult) -> bytes:
    """Return a region as a MOC in FITS (IVOA MOC 1.1, as all readers know it)."""
    order, pixel = moc_cells(region)
    table = fits.BinTableHDU.from_columns([fits.Column("UNIQ", "K", array=np.sort(4 * 4**order + pixel))])
    _add(table.header, [("PIXTYPE", "HEALPIX", "HEALPix pixelation"), ("ORDERING", "NUNIQ", "pixels of several orders")])
    _add(table.header, [("COORDSYS", "C", "equatorial (ICRS)"), ("MOCORDER", int(order.max()), "highest order")])
    _add(table.header, [("MOCTOOL", _CREATOR, "name of the writer"), ("MOCID", region.label.replace("σ", " sigma"), "region")])
    _add(table.header, [_digest(sky)])
    return _file(table)


def moc_json(region: Region) -> dict[str, list[int]]:
    """Return a region as a MOC in JSON: order to NESTED pixels."""
    order, pixel = moc_cells(region)
    return {str(at): pixel[order == at].tolist() for at in np.unique(order).tolist()}


def _about(sky: SkyResult, url: str | None) -> list[Card]:
    """The cards that say what was scanned, what was found, and from which result."""
    best, event = sky.best_fit, sky.event
    half, most = sky.region(0.5), sky.region(0.9)
    cards: list[Card] = [("OBJECT", event.name, "run, event and type"), ("INSTRUME", "IceCube", "detector")]
    if event.mjd is not None:
        cards.append(("DATE-OBS", str(Time(event.mjd, format="mjd", scale="utc").isot), "UTC date of the event"))
        cards.append(("MJD-OBS", event.mjd, "modified Julian date of the event"))
    cards += [
        ("DATE", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "UTC date of this file"),
        ("CREATOR", _CREATOR, "writer"),
    ]
    cards += [
        ("ORIGIN", "IceCube Collaboration", "who is responsible"),
        ("SENDER", "IceCube Collaboration", "as alerts name it"),
    ]
    if event.run_id is not None and event.event_id is not None:
        cards += [("RUNID", event.run_id, "run"), ("EVENTID", event.event_id, "event")]
    cards.append(("HIERARCH EVENT-TYPE", event.event_type or "unknown", "type of the event"))
    cards += [("RA", round(best.ra, 4), "best fit, degrees"), ("DEC", round(best.dec, 4), "best fit, degrees")]
    for share, region in ((50, half), (90, most)):
        box = region.box(best.ra, best.dec)
        for name, value in (
            ("RA_ERR_PLUS", box.ra_plus), ("RA_ERR_MINUS", box.ra_minus), ("DEC_ERR_PLUS", box.dec_plus), ("DEC_ERR_MINUS", box.dec_minus)
        ):  # fmt: skip
            cards.append((f"HIERARCH {name}_{share}", round(value, 4), "degrees"))
        cards.append((f"HIERARCH CONTOUR_AREA_{share}", round(region.area_deg2, 4), "square degrees"))
    cards += [("METHOD", "Wilks", "of errors and areas"), ("DONE", sky.done, "part of the sky that is scanned")]
    cards.append(("PIXELS", sky.pixel_count, "finished pixels"))
    if sky.is_final is not None:
        cards.append(("FINAL", sky.is_final, "whether the scan is complete"))
    if sky.scan_id is not None:
        cards.append(("SCANID", sky.scan_id, "id of the scan"))
    if url is not None:
        cards.append(("REFERENC", url, "the scan"))
    cards.append(_digest(sky))
    return cards


def _digest(sky: SkyResult) -> Card:
    """The SHA-256 of the result, without its prefix: a card holds 68 characters."""
    return ("DIGEST", sky.digest.removeprefix("sha256:"), "")


def _add(header: Any, cards: list[Card]) -> None:
    for name, value, comment in cards:
        text = value.encode("ascii", "replace").decode() if isinstance(value, str) else value
        room = 80 - 10 - len(name) - len(str(text)) - 8
        header[name] = (text, comment) if len(comment) < room else text


def _file(table: Any) -> bytes:
    memory = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(memory, checksum=False)
    return memory.getvalue()


def pixel_table(sky: SkyResult) -> dict[str, Floats | Integers]:
    """Return all finished pixels as columns: nside, index (RING), ra, dec (degrees), llh, and what else the scanner reported."""
    parts = sky.read.pixels
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    places = [centres(part.nside, part.index) for part in parts]
    table: dict[str, Floats | Integers] = {
        "nside": np.concatenate([np.full(part.index.size, part.nside, dtype=np.int64) for part in parts]),
        "index": np.concatenate([part.index for part in parts]),
        "ra": np.concatenate([ra for ra, _ in places]),
        "dec": np.concatenate([dec for _, dec in places]),
        "llh": np.concatenate([part.llh for part in parts]),
    }
    for name in names:
        table[name] = np.concatenate([part.columns.get(name, np.full(part.index.size, np.nan)) for part in parts])
    return table
