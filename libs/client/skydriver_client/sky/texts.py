"""Contours as GeoJSON and ECSV, pixels as ECSV and npz, the draft of a notice and of a circular."""

import io
import json
import math
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time

from skydriver_client.sky.reading import Floats
from skydriver_client.sky.regions import Region
from skydriver_client.sky.result import SkyResult
from skydriver_client.sky.tables import pixel_table

NOTICE_SCHEMA = "https://gcn.nasa.gov/schema/v6.1.0/gcn/notices/icecube/single_neutrino_alerts.schema.json"


def contours_geojson(sky: SkyResult, regions: tuple[Region, ...]) -> dict[str, Any]:
    """Return the best fit and all outlines as GeoJSON, in the shape that SkyPortal takes: RA as longitude from -180 to 180.

    A line that crosses RA 180 is cut there, as GeoJSON wants.
    """
    best = sky.best_fit
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [_longitude(best.ra), best.dec]},
            "properties": {"credible_level": 0},
        }
    ]
    for region in regions:
        lines = [piece.tolist() for line in region.contours() for piece in cut_at_180(line)]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiLineString", "coordinates": lines},
                "properties": {
                    "credible_level": round(100 * region.containment, 4),
                    "label": region.label,
                    "area_deg2": region.area_deg2,
                },
            }
        )
    about = {"event": sky.event.name, "scan_id": sky.scan_id, "digest": sky.digest, "done": sky.done}
    return {"type": "FeatureCollection", "features": features, "properties": about}


def cut_at_180(line: Floats) -> list[Floats]:
    """Return a line (continuous RA, dec) as pieces whose longitudes lie in -180 to 180."""
    turn = np.floor((line[:, 0] + 180) / 360)
    pieces, start = [], 0
    carried: Floats = np.empty((0, 2))
    for place in np.flatnonzero(np.diff(turn)).tolist():
        edge = 360 * max(turn[place], turn[place + 1]) - 180
        (ra_1, dec_1), (ra_2, dec_2) = line[place], line[place + 1]
        dec = dec_1 + (dec_2 - dec_1) * (edge - ra_1) / (ra_2 - ra_1)
        piece = np.concatenate([carried, line[start : place + 1], [[edge, dec]]])
        pieces.append(piece - [360 * turn[place], 0])
        carried, start = np.array([[edge, dec]]), place + 1
    last = np.concatenate([carried, line[start:]])
    pieces.append(last - [360 * turn[-1], 0])
    return [piece for piece in pieces if len(piece) > 1]


def contours_ecsv(sky: SkyResult, regions: tuple[Region, ...]) -> bytes:
    """Return all outlines as a table: containment, piece (a number), ra, dec in degrees."""
    rows = [
        (region.containment, piece, float(ra) % 360, float(dec))
        for region in regions
        for piece, line in enumerate(region.contours())
        for ra, dec in line
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 4
    kinds = (np.float64, np.int64, np.float64, np.float64)
    table = Table(
        {
            name: np.array(column, dtype=kind)
            for name, column, kind in zip(("containment", "piece", "ra", "dec"), columns, kinds, strict=True)
        }
    )
    labels = [region.label.replace("σ", " sigma") for region in regions]
    return _ecsv(table, {"event": sky.event.name, "digest": sky.digest, "regions": labels})


def pixels_ecsv(sky: SkyResult) -> bytes:
    """Return all finished pixels as an ECSV table: see ``pixel_table``."""
    return _ecsv(Table(pixel_table(sky)), {"event": sky.event.name, "digest": sky.digest, "scan_id": sky.scan_id or ""})


def pixels_npz(sky: SkyResult) -> bytes:
    """Return the pixels as skyreader's npz: an array of records for each nside, and ``header``."""
    event = sky.event
    arrays: dict[str, Any] = {}
    for part in sky.read.pixels:
        names = ["index", "llh", *part.columns]
        records = np.zeros(part.index.size, dtype=[("index", int), *((name, float) for name in names[1:])])
        records["index"], records["llh"] = part.index, part.llh
        for name, values in part.columns.items():
            records[name] = values
        arrays[f"nside-{part.nside}"] = records
    version = int(all("X" in part.columns for part in sky.read.pixels))
    kind = event.event_type or ""
    header = [
        (nside, event.run_id or 0, event.event_id or 0, kind, event.mjd or 0.0, bool(event.is_real_event), version)
        for nside in sky.nsides
    ]
    types = [
        ("nside", int), ("run_id", int), ("event_id", int), ("event_type", f"U{max(1, len(kind))}"), ("mjd", float),
        ("is_real_event", bool), ("version", int),
    ]  # fmt: skip
    memory = io.BytesIO()
    np.savez(memory, header=np.array(header, dtype=types), **arrays)
    return memory.getvalue()


def notice(sky: SkyResult, *, map_url: str | None = None) -> dict[str, Any]:
    """Return the draft of a GCN notice: what the result knows. pipeline, nu_energy, p_astro and far are left to people."""
    best, region = sky.best_fit, sky.region(0.9)
    draft: dict[str, Any] = {
        "$schema": NOTICE_SCHEMA,
        "mission": "IceCube",
        "instrument": "IC86",
        "messenger": "Neutrino",
        "record_number": 1,
        "alert_type": "update",
        "alert_tense": "current" if sky.event.is_real_event is not False else "test",
        "number_of_events": 1,
        "ra": round(best.ra, 4),
        "dec": round(best.dec, 4),
        "ra_dec_error": round(region.box(best.ra, best.dec).radius(best.dec), 4),
        "containment_probability": 0.9,
        "systematic_included": False,
        "additional_info": f"Draft. 90 % region by Wilks' theorem: {region.area_deg2:.2f} square degrees. Result {sky.digest}",
    }
    if sky.event.run_id is not None and sky.event.event_id is not None:
        draft["id"] = [f"{sky.event.run_id}_{sky.event.event_id}"]
    if sky.event.mjd is not None:
        draft["trigger_time"] = f"{Time(sky.event.mjd, format='mjd', scale='utc').isot}Z"
    if map_url is not None:
        draft["healpix_url"] = map_url
    return draft


def circular(sky: SkyResult) -> str:
    """Return the draft of a circular's paragraph: date, time, RA and dec with the errors of the 90 % box, area."""
    best, region = sky.best_fit, sky.region(0.9)
    box = region.box(best.ra, best.dec)
    lines = ["DRAFT: check every number before this is sent.", ""]
    if sky.event.mjd is not None:
        when = Time(sky.event.mjd, format="mjd", scale="utc")
        day, clock = str(when.strftime("%y/%m/%d")), str(when.strftime("%H:%M:%S.%f"))[:11]
        lines += [f"Date: {day}", f"Time: {clock} UT"]
    lines += [
        f"RA: {best.ra:.2f} (+{box.ra_plus:.2f}, -{box.ra_minus:.2f} deg, 90% PSF containment) J2000",
        f"Dec: {best.dec:+.2f} (+{box.dec_plus:.2f}, -{box.dec_minus:.2f} deg, 90% PSF containment) J2000",
        "",
        f"The 90% region (Wilks' theorem, systematic errors not included) covers {region.area_deg2:.2f} square degrees.",
    ]
    if sky.is_final is False or not math.isclose(sky.done, 1):
        lines.append(f"The scan is not complete: {100 * sky.done:.1f}% of the sky has a value.")
    lines += ["", f"Event: {sky.event.name}", f"Result: {sky.digest}", ""]
    return "\n".join(lines)


def json_bytes(value: Any) -> bytes:
    """Return strict JSON."""
    return json.dumps(value, allow_nan=False, indent=1).encode() + b"\n"


def _longitude(ra: float) -> float:
    return (ra + 180) % 360 - 180


def _ecsv(table: Table, about: dict[str, Any]) -> bytes:
    table.meta.update(about)
    memory = io.StringIO()
    table.write(memory, format="ascii.ecsv")
    return memory.getvalue().encode()
