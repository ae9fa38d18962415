"""Files and pictures of results: headers as the readers of the field demand them, every file valid for every scan."""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skydriver_client.sky import SkyResult, read_result
from skydriver_client.sky.catalogue import read_catalogue
from skydriver_client.sky.export import FORMATS, export
from skydriver_client.sky.pictures import draw
from skydriver_client.sky.tables import flat_fits, moc_cells, multiorder_fits
from skydriver_client.sky.texts import contours_geojson
from tests.support.skies import REAL_RESULT, response, skymap


@pytest.fixture(scope="module")
def sky() -> SkyResult:
    return read_result(response(skymap(0.5, 10.0, nsides=(8, 64))))


@pytest.fixture(scope="module")
def partial() -> SkyResult:
    found = skymap(nsides=(8,))
    found["nside-8"]["data"] = found["nside-8"]["data"][100:400]
    return read_result(response(found, final=False))


def test_the_multi_order_map_has_the_header_that_the_strictest_reader_wants(sky: SkyResult, partial: SkyResult) -> None:
    for each in (sky, partial):
        content = multiorder_fits(each, url="https://skydriver.example/scan/1")
        with fits.open(io.BytesIO(content)) as file:
            table = file[1]
            names = list(table.header)
            first = names[names.index("TFIELDS") :][:5]
            assert first == ["TFIELDS", "TTYPE1", "TFORM1", "TTYPE2", "TFORM2"]
            wanted = {
                "TTYPE1": "UNIQ", "TFORM1": "K", "TTYPE2": "PROBDENSITY", "TFORM2": "D", "TUNIT2": "sr-1", "PIXTYPE": "HEALPIX",
                "ORDERING": "NUNIQ", "COORDSYS": "C", "MOCORDER": each.cells.max_order, "INDXSCHM": "EXPLICIT", "RUNID": 136662,
                "EVENTID": 35405932, "DATE-OBS": "2022-05-24T07:41:32.185",
                "DIGEST": each.digest.removeprefix("sha256:"), "SCANID": each.scan_id,
            }  # fmt: skip
            assert {name: table.header[name] for name in wanted} == wanted
            assert table.header["DONE"] == pytest.approx(each.done)
            assert table.header["CONTOUR_AREA_90"] == pytest.approx(each.region(0.9).area_deg2, abs=1e-3)
            assert {"DISTMEAN", "DISTSTD"}.isdisjoint(names)
            uniq, density = np.array(table.data["UNIQ"]), np.array(table.data["PROBDENSITY"])
        assert np.all(np.diff(uniq) > 0)
        area = math.pi / 3 / 4.0 ** ((np.log2(uniq) // 2) - 1)
        assert area.sum() == pytest.approx(4 * math.pi)
        assert (density * area).sum() == pytest.approx(1)
        assert np.isfinite(density).all()


def test_healpy_reads_the_flat_maps(sky: SkyResult, partial: SkyResult, tmp_path: Path) -> None:
    for each in (sky, partial):
        path = tmp_path / "map.fits.gz"
        path.write_bytes(flat_fits(each))
        probability = healpy.read_map(path, dtype=None)
        assert probability.sum() == pytest.approx(1)
        best = healpy.ang2pix(healpy.get_nside(probability), each.best_fit.ra, each.best_fit.dec, lonlat=True)
        assert probability[best] == probability.max()
        path.write_bytes(flat_fits(each, "llh"))
        two_delta = healpy.read_map(path, dtype=None)
        assert np.nanmin(two_delta) == 0
        assert np.isnan(two_delta).mean() == pytest.approx(1 - each.done)


def test_a_moc_covers_the_region(sky: SkyResult) -> None:
    region = sky.region(0.9)
    order, pixel = moc_cells(region)
    assert (4 * math.pi / 12 / 4.0**order).sum() * (180 / math.pi) ** 2 == pytest.approx(region.area_deg2)
    centres = [healpy.pix2ang(2 ** int(o), int(p), nest=True, lonlat=True) for o, p in zip(order, pixel, strict=True)]
    assert all(region.contains(*place) for place in centres)


def test_geojson_stays_within_180_degrees_and_is_closed() -> None:
    sky = read_result(skymap(180.0, 10.0, nsides=(8, 64)))
    found = contours_geojson(sky, sky.regions())
    assert [feature["properties"]["credible_level"] for feature in found["features"]] == [0, 50, 90, 99.73]
    for feature in found["features"][1:]:
        lines = [np.array(line) for line in feature["geometry"]["coordinates"]]
        assert all(np.abs(line[:, 0]).max() <= 180 and np.abs(np.diff(line[:, 0])).max() < 30 for line in lines)
        assert any(line[0, 0] == 180 or line[-1, 0] == 180 for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(response(skymap(120.0, 89.0, nsides=(8, 64))), id="pole"),
        pytest.param(json.dumps({"nside-8": {"columns": ["index", "llh"], "data": [[0, 5.5]]}}).encode(), id="one pixel"),
        pytest.param(
            json.dumps({"nside-1": {"columns": ["index", "llh"], "data": [[i, 7.0] for i in range(12)]}}).encode(), id="flat"
        ),
    ],
)
def test_every_format_is_written_for_every_sky(content: bytes, tmp_path: Path) -> None:
    sky = read_result(content)
    paths = export(sky, tmp_path / "new")
    assert len(paths) == len(FORMATS)
    assert (tmp_path / "new" / paths[0].name).read_bytes() == content
    for path in paths:
        raw = path.read_bytes()
        assert raw
        if path.suffix in (".json", ".geojson"):
            json.loads(raw)
        if path.suffix == ".ecsv":
            assert Table.read(path, format="ascii.ecsv").meta["digest"] == sky.digest
        if path.name.endswith(("notice.json", "circular.txt", "contours.geojson")):
            assert sky.digest.encode() in raw
        if path.suffix == ".gz":
            assert sky.digest.removeprefix("sha256:").encode() in gzip.decompress(raw)
    assert not [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(not REAL_RESULT.exists(), reason="../shared/data is not there")
@pytest.mark.filterwarnings("ignore:Overriding `Axes.cla`:PendingDeprecationWarning")
def test_skyreader_reads_the_npz_of_a_scanners_own_result(tmp_path: Path) -> None:
    from skyreader import SkyScanResult

    sky = read_result(REAL_RESULT.read_bytes())
    (path,) = export(sky, tmp_path, ["npz"])
    theirs = SkyScanResult.read_npz(path)
    assert path.name == "run00136662.evt000035405932.neutrino_1.npz"
    assert theirs.min_llh == sky.best_fit.llh
    assert theirs.is_close(SkyScanResult.read_json(REAL_RESULT))


def test_pictures_have_the_kind_and_name_the_result(sky: SkyResult, partial: SkyResult) -> None:
    for each, view in ((sky, "allsky"), (sky, "zoom"), (partial, "allsky")):
        svg = draw(each, view=view, kind="svg", width=4)
        assert svg.startswith(b"<?xml")
        assert each.digest.encode() in svg
    assert draw(partial, kind="png", dpi=50).startswith(b"\x89PNG")
    assert draw(sky, kind="pdf", view="zoom", method="posterior", sources=(("Mrk 1", 0.5, 10.0),)).startswith(b"%PDF")
    mistakes: list[dict[str, Any]] = [{"view": "x"}, {"kind": "gif"}, {"width": 0.0}, {"method": "x"}]
    for wrong in mistakes:
        with pytest.raises(ValueError, match=r"expected|not a valid"):
            draw(sky, **wrong)


def test_a_catalogue_is_any_table_with_name_and_place(tmp_path: Path) -> None:
    path = tmp_path / "sources.csv"
    path.write_text("Source_Name,RAJ2000,DEJ2000\n4FGL J0001,0.5,10\nno place,,5\n")
    assert read_catalogue(path) == (("4FGL J0001", 0.5, 10.0),)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="name, ra and dec"):
        read_catalogue(path)
    (tmp_path / "x.fits").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a catalogue"):
        read_catalogue(tmp_path / "x.fits")
