"""Regions, contours and best fits of results: against HEALPix and skyreader, over RA 0, at the poles, of partial scans."""

import json
import math
import subprocess
import sys
from typing import Any

import healpy
import numpy as np
import pytest

from skydriver_client.sky import Method, SkyResult, UnreadableResult, compare, read_result
from skydriver_client.sky.cells import Cells
from tests.support.skies import REAL_RESULT, response, skymap

with_skyreader = pytest.mark.filterwarnings("ignore:Overriding `Axes.cla`:PendingDeprecationWarning")
needs_real_result = pytest.mark.skipif(not REAL_RESULT.exists(), reason="../shared/data is not there")
PLACES = [(200.0, 20.0), (0.05, 10.0), (359.95, -30.0), (120.0, 89.7), (10.0, -89.9), (45.0, 0.0)]


def _skies() -> list[Any]:
    return [pytest.param(read_result(skymap(*place)), id=f"RA {place[0]:g} dec {place[1]:g}") for place in PLACES]


def _flat(sky: SkyResult) -> np.ndarray:
    """The flat map as skyreader makes it: finer pixels over coarser ones."""
    found = np.full(healpy.nside2npix(max(sky.nsides)), np.nan)
    for part in sky.read.pixels:
        this = np.full(healpy.nside2npix(part.nside), np.nan)
        this[part.index] = part.llh
        this = healpy.ud_grade(this, max(sky.nsides)) if part.nside < max(sky.nsides) else this
        found[np.isfinite(this)] = this[np.isfinite(this)]
    return found


def _area_inside(line: np.ndarray) -> float:
    """Of a closed line, in square degrees; negative when it runs clockwise (a hole). Right when no pole is inside."""
    ra, dec = np.radians(line).T
    return float(-np.sum(np.diff(ra) * (np.sin(dec[1:]) + np.sin(dec[:-1])) / 2) * (180 / np.pi) ** 2)


@pytest.mark.parametrize("sky", _skies())
def test_each_point_of_the_sky_is_in_one_cell_with_the_value_of_the_flat_map(sky: SkyResult) -> None:
    cells = sky.cells
    assert math.isclose(cells.area.sum(), 4 * np.pi, rel_tol=1e-12)
    assert np.all(np.diff(cells.uniq) > 0)
    flat = healpy.reorder(_flat(sky), r2n=True)
    number = cells.of_pixels(np.arange(flat.size))
    np.testing.assert_array_equal(cells.llh[number], flat)


@pytest.mark.parametrize("sky", _skies())
def test_areas_and_contours_agree_with_the_flat_map(sky: SkyResult) -> None:
    two_delta = 2 * (_flat(sky) - np.nanmin(_flat(sky)))
    for region, level in zip(sky.regions(), (1.39, 4.61, 11.83), strict=True):
        expected = np.sum(two_delta <= level) * healpy.nside2pixarea(max(sky.nsides), degrees=True)
        assert math.isclose(region.area_deg2, expected, rel_tol=1e-9)
        lines = region.contours()
        assert all(np.allclose(line[0, 1], line[-1, 1]) for line in lines)
        if not (region.contains(0, 90) or region.contains(0, -90)):
            assert math.isclose(sum(_area_inside(line) for line in lines), expected, rel_tol=2e-2)


@pytest.mark.parametrize("sky", _skies())
def test_the_regions_around_the_true_direction_have_the_size_that_its_width_says(sky: SkyResult) -> None:
    for region in sky.regions():
        assert math.isclose(region.area_deg2, math.pi * 2.0**2 * region.level, rel_tol=0.05)
    for containment in (0.5, 0.9):
        posterior = sky.region(containment, Method.POSTERIOR)
        assert math.isclose(posterior.area_deg2, sky.region(containment).area_deg2, rel_tol=0.05)
        held = (sky.density * sky.cells.area)[posterior.inside].sum()
        assert containment <= held < containment + 0.01


@pytest.mark.parametrize("place", PLACES)
def test_the_box_reaches_as_far_as_the_width_says(place: tuple[float, float]) -> None:
    sky = read_result(skymap(*place))
    best = sky.best_fit
    box = sky.region(0.9).box(best.ra, best.dec)
    reach = 2.0 * math.sqrt(4.61)
    if abs(place[1]) > 80:
        assert box.ra_plus == box.ra_minus == 180
    else:
        wide = math.degrees(math.asin(math.sin(math.radians(reach)) / math.cos(math.radians(place[1]))))
        assert math.isclose(box.ra_plus + box.ra_minus, 2 * wide, rel_tol=0.1)
        assert math.isclose(box.dec_plus + box.dec_minus, 2 * reach, rel_tol=0.1)
        assert math.isclose(box.radius(best.dec), reach, rel_tol=0.1)


@with_skyreader
def test_best_fit_and_flat_map_are_those_of_skyreader() -> None:
    from skyreader import SkyScanResult
    from skyreader.utils.handle_map_data import extract_map

    for place in PLACES:
        found = skymap(*place, nsides=(8, 64))
        ours, theirs = read_result(found), SkyScanResult.deserialize(found)
        ra, dec = theirs.best_dir
        assert math.isclose(ours.best_fit.ra, math.degrees(ra) % 360, abs_tol=1e-9)
        assert math.isclose(ours.best_fit.dec, math.degrees(dec), abs_tol=1e-9)
        assert ours.best_fit.llh == theirs.min_llh
        flat = extract_map(theirs, llh_map=True)[3]
        for region in ours.regions():
            expected = np.sum(flat <= region.level) * healpy.nside2pixarea(64, degrees=True)
            assert math.isclose(region.area_deg2, expected, rel_tol=1e-9)
        probability = extract_map(theirs, llh_map=False)[3]
        number = ours.cells.of_pixels(healpy.ring2nest(64, np.arange(probability.size)))
        np.testing.assert_allclose(ours.density[number] * healpy.nside2pixarea(64), probability, rtol=1e-9)


@needs_real_result
@with_skyreader
def test_a_scanners_own_result_has_the_numbers_of_skyreader() -> None:
    from skyreader import SkyScanResult

    content = REAL_RESULT.read_bytes()
    ours, theirs = read_result(content), SkyScanResult.deserialize(json.loads(content))
    assert (ours.best_fit.ra, ours.best_fit.dec) == pytest.approx(np.degrees(theirs.best_dir))
    assert ours.best_fit.llh == theirs.min_llh
    assert ours.event.name == str(theirs.get_event_metadata())
    pixel = 4 * math.pi / 12 * (180 / math.pi) ** 2
    assert [region.area_deg2 / pixel for region in ours.regions()] == pytest.approx([1, 1, 3])
    assert ours.content == content
    assert math.isnan(ours.best_fit.columns["E_in"])


def test_a_direction_has_the_containment_of_its_distance() -> None:
    sky = read_result(skymap(0.5, 0.0))
    best = sky.best_fit
    assert sky.credible_level(best.ra, best.dec) == 0
    for distance in (1.0, 2.0, 4.0):
        expected = 1 - math.exp(-((distance / 2) ** 2) / 2)
        for ra in (0.5 + distance, 0.5 - distance):  # the second one over RA 0
            assert math.isclose(sky.credible_level(ra, 0.0), expected, abs_tol=0.05)
            assert math.isclose(sky.credible_level(ra, 0.0, Method.POSTERIOR), expected, abs_tol=0.05)
    for ra, dec in ((math.nan, 0.0), (0.0, 90.1)):
        with pytest.raises(ValueError, match="ra, dec"):
            sky.credible_level(ra, dec)


def test_a_partial_scan_keeps_coarse_values_where_nothing_finer_is_done() -> None:
    sky = read_result(skymap(done=0.3))
    assert sky.done == pytest.approx(1)
    found = skymap(nsides=(8,))
    found["nside-8"]["data"] = found["nside-8"]["data"][:100]
    sky = read_result(response(found, final=False))
    assert sky.is_final is False
    assert sky.done == pytest.approx(100 / 768)
    assert math.isclose(sky.cells.area.sum(), 4 * np.pi, rel_tol=1e-12)
    assert np.isfinite(sky.density).all()
    assert math.isnan(sky.credible_level(0.0, -90.0))
    assert sky.probability_at(0.0, -90.0) == 0
    assert sky.region(0.999999).area_deg2 <= 41253 * 100 / 768 * 1.001


def test_a_split_region_has_a_line_for_each_piece_and_each_hole() -> None:
    sky = read_result(skymap(5.0, 10.0, valleys=[(355.0, 40.0), (90.0, -60.0)]))
    region = sky.region(0.5)
    assert len(region.contours()) == 3
    assert all(region.contains(*place) for place in ((5.0, 10.0), (355.0, 40.0), (90.0, -60.0)))
    ring = skymap(180.0, 0.0, nsides=(16,))
    for row in ring["nside-16"]["data"]:
        row[1] = 1001.0 + abs(math.degrees(math.acos(healpy.pix2vec(16, row[0])[0] * -1)) - 30) / 10
    lines = read_result(ring).region(0.5).contours()
    areas = sorted(_area_inside(line) for line in lines)
    assert len(areas) == 2
    assert areas[0] < 0 < areas[1]
    assert sum(areas) == pytest.approx(read_result(ring).region(0.5).area_deg2, rel=0.02)


def test_pixels_without_a_number_are_left_out_and_counted() -> None:
    found = skymap(nsides=(8,))
    for row, value in zip(found["nside-8"]["data"], (math.nan, math.inf, -math.inf, None, "<skyreader.nan>"), strict=False):
        row[1] = value
    sky = read_result(json.dumps(found))
    assert (sky.pixel_count, sky.without_value) == (768 - 5, 5)
    assert np.isfinite(sky.density).all()
    assert sky.best_fit.llh == read_result(skymap(nsides=(8,))).best_fit.llh


def test_one_pixel_is_a_sky() -> None:
    sky = read_result({"nside-8": {"columns": ["index", "llh"], "data": [[0, 5.5]]}})
    assert (sky.best_fit.nside, sky.best_fit.index, sky.best_fit.llh) == (8, 0, 5.5)
    assert sky.region(0.9).area_deg2 == pytest.approx(41252.96 / 768)
    assert len(sky.region(0.9).contours()) == 1
    assert sky.event.name == "scan"
    assert math.isnan(sky.credible_level(180.0, 0.0))


def test_the_whole_sky_has_no_outline() -> None:
    sky = read_result({"nside-1": {"columns": ["index", "llh"], "data": [[i, 7.0] for i in range(12)]}})
    region = sky.region(0.9)
    assert region.contours() == []
    assert region.area_deg2 == pytest.approx(41252.96)
    box = region.box(sky.best_fit.ra, sky.best_fit.dec)
    assert (box.ra_plus, box.ra_minus, box.dec_plus + box.dec_minus) == (180, 180, 180)


NO_PIXELS = {"nside-8": {"columns": ["index", "llh"], "data": []}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\xff\xfe", "not JSON: byte"),
        (b'{"nside-8":\n {,}}', "line 2, column 3"),
        (b"[]", "expected a JSON object"),
        (b"[" * 200_000, "nested too deeply"),
        (b"{}", "no pixel is finished"),
        (response({}), "no pixel is finished"),
        (json.dumps(NO_PIXELS).encode(), "no pixel is finished"),
        (b'{"skyscan_result": 3}', "skyscan_result is not an object"),
        (b'{"a": 1}', "not a result"),
        (b'{"nside-12": {"columns": ["index", "llh"], "data": []}}', "power of two"),
        (b'{"nside-8": {"columns": ["index"], "data": []}}', "index and llh are missing"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[1]]}}', "2 values"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[768, 1.0]]}}', "768 is not a pixel"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[-1, 1.0]]}}', "-1 is not a pixel"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[1.5, 1.0]]}}', "1.5 is not a pixel"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[NaN, 1.0]]}}', "nan is not a pixel"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[1, "x"]]}}', "must be numbers: found 'x'"),
        (b'{"nside-8": {"columns": ["index", "llh"], "data": [[1, NaN]]}}', "none of the 1 finished pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_result_is_one_readable_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableResult, match=reason) as caught:
        read_result(content)
    assert "\n" not in str(caught.value)


def test_two_results_are_compared_by_numbers_and_a_map() -> None:
    a, b = read_result(skymap(0.5, 10.0)), read_result(skymap(359.5, 10.0, nsides=(4, 32, 128)))
    found = compare(a, b)
    assert found.distance == pytest.approx(math.cos(math.radians(10)), abs=0.5)
    assert found.area_ratio == pytest.approx(1, abs=0.1)
    assert 0.6 < found.overlap < 0.95
    assert found.a_in_b == pytest.approx(1 - math.exp(-((found.distance / 2) ** 2) / 2), abs=0.1)
    assert isinstance(found.cells, Cells)
    assert found.cells.area.sum() == pytest.approx(4 * np.pi)
    same = compare(a, a)
    assert (same.distance, same.area_ratio, same.overlap, same.largest_difference) == (0, 1, 1, 0)
    apart = compare(a, read_result(skymap(180.0, -10.0)))
    assert apart.overlap == 0
    assert apart.distance == pytest.approx(179, abs=2)


def test_a_region_wants_a_containment_that_its_method_has() -> None:
    sky = read_result(skymap(nsides=(8,)))
    for containment in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="containment"):
            sky.region(containment)
    with pytest.raises(ValueError, match="systematics"):
        sky.region(0.8, Method.SYSTEMATICS)
    assert [region.label for region in sky.regions("systematics")] == ["50 % (IC160427A syst.)", "90 % (IC160427A syst.)"]
    assert [region.label for region in sky.regions()] == ["50 % (Wilks)", "90 % (Wilks)", "3σ (Wilks)"]


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = """
import sys
sys.modules["astropy_healpix"] = None
import skydriver_client
try:
    import skydriver_client.sky
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "astropy-healpix is not installed: pip install 'skydriver-client[fits]'\n"
