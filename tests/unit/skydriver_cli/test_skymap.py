"""The sky in plain Python against HEALPix itself, and what is read from a skymap."""

import math
from typing import Any

import healpy
import pytest

from skydriver_cli.errors import CliError
from skydriver_cli.scan_commands import parse_pairs
from skydriver_cli.skymap import best_fit, picture, pixel_counts, pixel_to_angles


@pytest.mark.parametrize("nside", [1, 2, 4, 8, 64])
def test_pixel_centres_are_those_of_healpix(nside: int) -> None:
    for pixel in range(0, 12 * nside * nside, max(1, nside * nside // 16)):
        theta, phi = pixel_to_angles(nside, pixel)
        expected_theta, expected_phi = healpy.pix2ang(nside, pixel)
        assert math.isclose(theta, expected_theta, abs_tol=1e-9)
        assert math.isclose(phi, expected_phi, abs_tol=1e-9)


def test_the_best_direction_ignores_what_is_no_number() -> None:
    rows = [[0, float("nan"), 1], [1, 5.0, "<skyreader.nan>"], [2, "<skyreader.nan>", 1]]
    skymap = {"nside-1": {"columns": ["index", "llh", "E_in"], "data": rows}}
    best = best_fit(skymap)
    assert best is not None
    assert (best.nside, best.pixel, best.llh) == (1, 1, 5.0)
    assert any(line.strip() for line in picture(skymap))
    assert best_fit({}) is None
    assert picture({}) == []


def test_pairs_are_read_in_order() -> None:
    assert parse_pairs("512:24, 8:0, 8:1", "--nsides") == [("512", 24), ("8", 0), ("8", 1)]
    for wrong in ("", "8", "8:x", ":1", "8[/a]", "8:-", "8:²"):
        with pytest.raises(CliError, match="--nsides"):
            parse_pairs(wrong, "--nsides")


@pytest.mark.parametrize(
    "skymap",
    [
        [], "text", {"nside-x": {}}, {"nside-8": []}, {"nside-8": {"columns": ["llh"], "data": [[1]]}},
        {"nside-8": {"columns": ["index", "llh"], "data": [[1], "row", [None, 2], [99999999, 2.0], [1, None], [1, float("nan")]]}},
        {"nside-0": {"columns": ["index", "llh"], "data": [[0, 1.0]]}},
    ],
)  # fmt: skip
def test_a_skymap_of_another_form_has_no_pixels(skymap: Any) -> None:
    assert best_fit(skymap) is None
    assert picture(skymap) == []
    assert pixel_counts(skymap) == {}
