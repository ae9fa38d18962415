"""Every file of one result, by format: their names, their content, and writing them so that no half file is ever seen."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from skydriver_client.sky import tables, texts
from skydriver_client.sky.errors import MissingExtra
from skydriver_client.sky.result import SkyResult


def _picture(sky: SkyResult, name: str) -> bytes:
    from skydriver_client.sky.pictures import draw

    view, kind = name.split(".")
    return draw(sky, view=view, kind=kind)


def _flat_name(sky: SkyResult, kind: str) -> str:
    return f"skymap_nside_{max(sky.nsides)}_{kind}.fits.gz"


def _moc(share: float, kind: str) -> Callable[[SkyResult], bytes]:
    def content(sky: SkyResult) -> bytes:
        region = sky.region(share)
        return tables.moc_fits(region, sky) if kind == "fits" else json.dumps(tables.moc_json(region)).encode()

    return content


_Writer = tuple[Callable[[SkyResult], str], Callable[[SkyResult], bytes]]

FORMATS: dict[str, _Writer] = {
    "json": (lambda sky: "json", lambda sky: sky.content),
    "multiorder": (lambda sky: "multiorder.fits", tables.multiorder_fits),
    "flat": (lambda sky: _flat_name(sky, "probability"), lambda sky: tables.flat_fits(sky, "probability")),
    "flat-llh": (lambda sky: _flat_name(sky, "llh"), lambda sky: tables.flat_fits(sky, "llh")),
    "geojson": (
        lambda sky: "contours.geojson",
        lambda sky: texts.json_bytes(texts.contours_geojson(sky, sky.regions())),
    ),
    "contours": (lambda sky: "contours.ecsv", lambda sky: texts.contours_ecsv(sky, sky.regions())),
    "moc50": (lambda sky: "moc50.fits", _moc(0.5, "fits")),
    "moc90": (lambda sky: "moc90.fits", _moc(0.9, "fits")),
    "moc90-json": (lambda sky: "moc90.json", _moc(0.9, "json")),
    "pixels": (lambda sky: "pixels.ecsv", texts.pixels_ecsv),
    "npz": (lambda sky: "npz", texts.pixels_npz),
    "notice": (lambda sky: "notice.json", lambda sky: texts.json_bytes(texts.notice(sky))),
    "circular": (lambda sky: "circular.txt", lambda sky: texts.circular(sky).encode()),
    "allsky": (lambda sky: "allsky.png", lambda sky: _picture(sky, "allsky.png")),
    "zoom": (lambda sky: "zoom.png", lambda sky: _picture(sky, "zoom.png")),
}
"""Format to the end of its file's name, and its content."""


def export(sky: SkyResult, folder: Path, formats: Iterable[str] | None = None) -> list[Path]:
    """Write files of a result into a folder, which is made when it is missing; return their paths.

    formats: keys of ``FORMATS``; None is all. Without matplotlib, all leaves the pictures out. Raises ValueError for an unknown
    format, MissingExtra, OSError.
    """
    chosen = list(FORMATS if formats is None else formats)
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"format {name!r} is unknown: expected one of {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in chosen:
        ending, content = FORMATS[name]
        try:
            data = content(sky)
        except MissingExtra:
            if formats is not None:
                raise
            continue
        path = folder / f"{file_stem(sky)}.{ending(sky)}"
        write(path, data)
        written.append(path)
    return written


def file_stem(sky: SkyResult) -> str:
    """Return ``run00136662.evt000035405932.neutrino_8_64_512``: event and nsides, as files of scans have always been named."""
    return f"{sky.event.name}_{'_'.join(str(nside) for nside in sky.nsides)}"


def write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the whole of it or the one before. Raises OSError."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
