"""The pixel arithmetic agrees with healpy, the reference."""

import healpy
import numpy as np
import pytest

from skydriver_sandbox import healpix, sphere

NSIDES = [1, 2, 4, 8, 32, 64, 512]


def _some_pixels(nside: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    total = sphere.pixel_count(nside)
    if total <= 50_000:
        return np.arange(total, dtype=np.int64)
    rng = np.random.default_rng(nside)
    edges = np.array([0, 1, 2 * nside * (nside - 1) - 1, 2 * nside * (nside - 1), total - 2 * nside * (nside - 1), total - 1])
    return np.unique(np.concatenate([edges, rng.integers(0, total, 5_000)])).astype(np.int64)


@pytest.mark.parametrize("nside", NSIDES)
def test_vectors_are_those_of_healpy(nside: int) -> None:
    pixels = _some_pixels(nside)
    expected = np.stack(healpy.pix2vec(nside, pixels), axis=1)
    np.testing.assert_allclose(healpix.vectors(nside, pixels), expected, atol=1e-12)


@pytest.mark.parametrize("nside", NSIDES)
def test_a_single_centre_is_that_of_healpy(nside: int) -> None:
    for pixel in _some_pixels(nside)[::37]:
        assert sphere.centre(nside, int(pixel)) == pytest.approx(healpy.pix2ang(nside, int(pixel)), abs=1e-12)


@pytest.mark.parametrize("pixel", [-1, 12 * 8 * 8])
def test_a_pixel_outside_the_sky_is_refused(pixel: int) -> None:
    with pytest.raises(ValueError, match="has no pixel"):
        sphere.centre(8, pixel)


@pytest.mark.parametrize(("nside", "finer"), [(1, 2), (8, 64), (64, 512), (2, 64), (8, 8)])
def test_children_are_the_shifted_nested_pixels(nside: int, finer: int) -> None:
    pixels = np.random.default_rng(7).choice(sphere.pixel_count(nside), min(12, sphere.pixel_count(nside)), replace=False)
    factor = (finer // nside) ** 2
    nested = healpy.ring2nest(nside, pixels)[:, None] * factor + np.arange(factor)[None, :]
    expected = np.sort(healpy.nest2ring(finer, nested.ravel()))
    np.testing.assert_array_equal(healpix.children(nside, pixels.astype(np.int64), finer), expected)


def test_children_of_the_whole_sky_are_the_whole_sky() -> None:
    everything = healpix.children(4, np.arange(sphere.pixel_count(4), dtype=np.int64), 32)
    np.testing.assert_array_equal(everything, np.arange(sphere.pixel_count(32)))


def test_children_need_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        healpix.children(8, np.array([1], dtype=np.int64), 24)


def test_a_pixel_is_a_child_of_its_parent() -> None:
    pixels = _some_pixels(512)[::211]
    for pixel, mother in zip(pixels, healpix.parents(512, pixels, 8), strict=True):
        assert pixel in healpix.children(8, np.array([mother], dtype=np.int64), 512)


@pytest.mark.parametrize("nside", [1, 8, 64])
@pytest.mark.parametrize("radius", [0.001, 0.06, 0.5, 2.0, 3.2])
def test_pixels_within_a_circle_are_those_of_healpy(nside: int, radius: float) -> None:
    rng = np.random.default_rng(3)
    directions = [np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0]), *rng.normal(size=(20, 3))]
    for raw in directions:
        direction = raw / np.linalg.norm(raw)
        expected = healpy.query_disc(nside, direction, min(radius, np.pi), inclusive=False)
        np.testing.assert_array_equal(healpix.within(nside, direction, radius), np.sort(expected))
