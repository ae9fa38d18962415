"""The formula that stands for a reconstruction."""

import math

import pytest

from skydriver_sandbox.events import Facts
from skydriver_sandbox.likelihood import duration, reconstruct
from skydriver_sandbox.sphere import angular_distance, equatorial, pixel_count

FACTS = Facts(key="k", ra=1.0, dec=0.4, sigma=0.01, energy=1e5, llh=1000.0)


def test_the_same_pixel_gives_the_same_answer_and_another_event_another() -> None:
    assert reconstruct(FACTS, "dummy", 8, 17, 0) == reconstruct(FACTS, "dummy", 8, 17, 0)
    other = Facts(**{**FACTS.__dict__, "key": "other"})
    assert reconstruct(other, "dummy", 8, 17, 0) != reconstruct(FACTS, "dummy", 8, 17, 0)


def test_the_best_pixel_lies_at_the_event() -> None:
    best = min(range(pixel_count(16)), key=lambda pixel: reconstruct(FACTS, "dummy", 16, pixel, 0).llh)
    assert angular_distance(*equatorial(16, best), FACTS.ra, FACTS.dec) < math.radians(4)


def test_the_llh_rises_away_from_the_event() -> None:
    by_distance = sorted(range(pixel_count(8)), key=lambda pixel: angular_distance(*equatorial(8, pixel), FACTS.ra, FACTS.dec))
    values = [reconstruct(FACTS, "dummy", 8, pixel, 0).llh for pixel in by_distance]
    assert values[0] < values[50] < values[300] < values[-1]
    assert 2 * (values[-1] - values[0]) < 200_000


def test_splinempe_gives_no_energies() -> None:
    answer = reconstruct(FACTS, "splinempe", 8, 1, 3)
    assert math.isnan(answer.reco_losses_inside)
    assert math.isnan(answer.reco_losses_total)
    assert not math.isnan(reconstruct(FACTS, "millipede_wilks", 8, 1, 0).reco_losses_inside)


def test_durations_jitter_around_their_mean_and_repeat() -> None:
    values = [duration(FACTS, 8, pixel, 0, mean_s=2.0, jitter=1.0) for pixel in range(768)]
    assert values == [duration(FACTS, 8, pixel, 0, mean_s=2.0, jitter=1.0) for pixel in range(768)]
    assert sum(values) / len(values) == pytest.approx(2.0, rel=0.15)
    assert max(values) > 3 * min(values)


def test_jitter_and_pause_can_be_turned_off() -> None:
    assert {duration(FACTS, 8, pixel, 0, mean_s=2.0, jitter=0.0) for pixel in range(9)} == {2.0}
    assert duration(FACTS, 8, 1, 0, mean_s=0.0, jitter=1.0) == 0.0


def test_a_pixel_off_the_sky_is_refused() -> None:
    with pytest.raises(ValueError, match="has no pixel"):
        reconstruct(FACTS, "dummy", 8, 768, 0)
