"""Which pixels are sent, and when: the rules of the scanner contract, section 8."""

import dataclasses
import math
import random

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skydriver_sandbox.events import Facts
from skydriver_sandbox.likelihood import Reconstruction, reconstruct
from skydriver_sandbox.scanner.pixel_ledger import Arrival, PixelLedger
from skydriver_sandbox.scanner.progression import ScanRefusedError, read_progression, read_threshold, thresholds, variations_of
from skydriver_sandbox.scanner.refinement import Pixel, first_round, refine, steep_pixels

FACTS = Facts(key="k", ra=1.0, dec=0.4, sigma=0.01, energy=1e5, llh=1000.0)
DEMO = read_progression(["8:0", "64:12", "512:24"])


def _answer(nside: int, pixel: int, variation: int = 0, llh: float | None = None) -> Reconstruction:
    answer = reconstruct(FACTS, "dummy", nside, pixel, variation)
    return answer if llh is None else dataclasses.replace(answer, llh=llh)


def _scan(ledger: PixelLedger, rng: random.Random, *, in_turn: bool) -> list[int]:
    """Answer all pixels until nothing is left, round by round or in any order; the sizes of the rounds."""
    rounds: list[int] = []
    due: int | None = None
    waiting: list[tuple[Pixel, int]] = []
    while True:
        pixels = ledger.next_round(due)
        if not pixels and not waiting:
            if not ledger.next_round(None):
                return rounds
            due = None
            continue
        if pixels:
            rounds.append(len(pixels))
        ledger.mark_sent(sorted(pixels), 0.0)
        sent = [(pixel, number) for pixel in pixels for number in range(ledger.variations)]
        rng.shuffle(sent)
        waiting = sent[::-1] + waiting
        if not in_turn:
            rng.shuffle(waiting)
        due = None
        while waiting and due is None:
            (nside, pixel), variation = waiting.pop()
            assert ledger.accept(_answer(nside, pixel, variation)) is Arrival.NEW
            due = ledger.risen()
        if due is None:
            assert ledger.is_everything_collected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.66, (0.66, 0.7, 0.8, 0.9, 1.0)),
        (1.0, (1.0,)),
        (0.1, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (0.5, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
    ],
)
def test_thresholds_are_the_value_and_each_tenth_above(value: float, expected: tuple[float, ...]) -> None:
    assert thresholds(value, is_last=False) == expected
    assert thresholds(value, is_last=True) == (1.0,)


@pytest.mark.parametrize("value", [0.0, 0.09, 1.01, math.nan])
def test_a_threshold_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ScanRefusedError, match=r"0\.1 to 1\.0"):
        read_threshold(value)


def test_estimates_are_those_of_the_contract() -> None:
    assert DEMO.estimates(1) == {8: 768, 64: 768, 512: 1536}
    assert DEMO.estimates(7)[512] == 7 * 1536


def test_variations_belong_to_the_algorithm() -> None:
    assert (variations_of("millipede_wilks"), variations_of("splinempe")) == (1, 7)
    with pytest.raises(ScanRefusedError, match="known are"):
        variations_of("magic")


def test_the_first_round_is_the_whole_sky() -> None:
    assert first_round(DEMO, None) == {(8, pixel) for pixel in range(768)}


def test_a_pointed_scan_starts_near_its_event() -> None:
    found = first_round(read_progression(["32:0", "64:12"]), (FACTS.ra, FACTS.dec))
    vector = healpy.ang2vec(math.pi / 2 - FACTS.dec, FACTS.ra)
    assert {pixel for _, pixel in found} == set(healpy.query_disc(32, vector, math.radians(3.5)).tolist())


def test_a_pointed_scan_of_coarse_pixels_starts_with_the_nearest() -> None:
    found = first_round(read_progression(["1:0"]), (FACTS.ra, FACTS.dec))
    assert found == {(1, int(healpy.ang2pix(1, math.pi / 2 - FACTS.dec, FACTS.ra)))}


def test_refinement_takes_about_as_many_parents_as_asked_and_all_their_children() -> None:
    values = {8: {pixel: _answer(8, pixel).llh for pixel in range(768)}}
    best = min(values[8], key=lambda pixel: values[8][pixel])
    chosen = refine(read_progression(["8:0", "64:12"]), values, (8, best))
    parents = {int(healpy.nest2ring(8, healpy.ring2nest(64, pixel) >> 6)) for _, pixel in chosen}
    assert {nside for nside, _ in chosen} == {64}
    assert len(chosen) == 64 * len(parents)
    assert 8 <= len(parents) <= 16
    assert best in parents


def test_unfinished_pixels_near_the_best_are_refined_too() -> None:
    best = 300
    chosen = refine(read_progression(["8:0", "64:12"]), {8: {best: 1.0}}, (8, best))
    assert len(chosen) > 64


def test_a_pair_without_finished_pixels_is_left_alone() -> None:
    chosen = refine(DEMO, {8: {300: 1.0}}, (8, 300))
    assert {nside for nside, _ in chosen} == {64}


def test_steep_neighbours_are_found_and_calm_ones_not() -> None:
    neighbour = int(healpy.get_all_neighbours(8, 300)[0])
    values = {300: 1000.0, neighbour: 1000.0 + 100_001.0, 5: 1000.0}
    assert steep_pixels(8, values) == {300, neighbour}
    assert steep_pixels(8, {300: 1000.0, neighbour: 1000.0 + 99_999.0}) == set()
    assert steep_pixels(8, {300: math.nan}) == set()


@pytest.mark.parametrize(("threshold", "low", "high"), [(1.0, 3072, 3328), (0.5, 3072, 4000), (0.1, 3072, 4600)])
def test_a_demo_scan_sends_about_as_many_pixels_as_measured(threshold: float, low: int, high: int) -> None:
    ledger = PixelLedger(DEMO, 1, threshold)
    rounds = _scan(ledger, random.Random(5), in_turn=True)
    assert rounds[0] == 768
    assert low - 256 <= sum(rounds) <= high
    assert ledger.best is not None
    assert ledger.best.nside == 512


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 1.0), st.integers(1, 3))
def test_every_scan_ends_with_all_it_sent_and_its_best_pixel_refined(seed: int, threshold: float, variations: int) -> None:
    progression = read_progression(["1:0", "4:3", "16:4"])
    ledger = PixelLedger(progression, variations, threshold)
    _scan(ledger, random.Random(seed), in_turn=False)
    assert ledger.is_everything_collected
    assert ledger.missing() == []
    for nside in progression.nsides:
        assert ledger.done(nside) == 1.0
    assert ledger.next_round(None) == set()


def _answered(ledger: PixelLedger, answers: list[Reconstruction]) -> list[int | None]:
    found = []
    for answer in answers:
        ledger.accept(answer)
        found.append(ledger.risen())
    return found


def test_each_threshold_is_passed_once_while_nothing_more_is_sent() -> None:
    ledger = PixelLedger(read_progression(["1:0", "2:3"]), 1, 0.5)
    ledger.mark_sent([(1, pixel) for pixel in range(12)], 0.0)
    due = _answered(ledger, [_answer(1, pixel) for pixel in range(12)])
    assert [number for number, nside in enumerate(due, 1) if nside == 1] == [6, 8, 9, 10, 11, 12]


def test_sending_more_lets_a_threshold_be_passed_again() -> None:
    ledger = PixelLedger(read_progression(["1:0", "2:3"]), 1, 1.0)
    ledger.mark_sent([(1, 0)], 0.0)
    assert _answered(ledger, [_answer(1, 0)]) == [1]
    ledger.mark_sent([(1, 1)], 0.0)
    assert _answered(ledger, [_answer(1, 1)]) == [1]


def test_a_round_goes_only_one_nside_further() -> None:
    ledger = PixelLedger(DEMO, 1, 1.0)
    ledger.mark_sent([(8, 300), (64, 20_000)], 0.0)
    _answered(ledger, [_answer(8, 300), _answer(64, 20_000)])
    assert {nside for nside, _ in ledger.next_round(8)} == {64}
    assert {nside for nside, _ in ledger.next_round(64)} == {64, 512}


def test_duplicates_and_unknown_answers_change_nothing() -> None:
    ledger = PixelLedger(DEMO, 1, 1.0)
    ledger.mark_sent([(8, 1)], 0.0)
    assert ledger.accept(_answer(8, 2)) is Arrival.UNKNOWN
    assert ledger.accept(_answer(64, 2)) is Arrival.UNKNOWN
    assert ledger.accept(_answer(8, 1, variation=1)) is Arrival.UNKNOWN
    assert ledger.accept(_answer(8, 1)) is Arrival.NEW
    assert ledger.accept(_answer(8, 1)) is Arrival.DUPLICATE
    assert (ledger.n_received(8), ledger.done(8)) == (1, 1.0)


def test_a_pixel_is_finished_with_its_last_variation_and_has_the_smallest_llh() -> None:
    ledger = PixelLedger(DEMO, 3, 1.0)
    ledger.mark_sent([(8, 1)], 0.0)
    for variation, llh in ((2, 5.0), (0, math.nan)):
        ledger.accept(_answer(8, 1, variation, llh))
    assert ledger.finished == {}
    assert ledger.missing() == [((8, 1), 1)]
    ledger.accept(_answer(8, 1, 1, 4.0))
    assert ledger.finished[8][1].llh == 4.0


def test_nan_never_becomes_the_best_while_there_is_a_number() -> None:
    ledger = PixelLedger(DEMO, 1, 1.0)
    ledger.mark_sent([(8, 1), (8, 2), (8, 3)], 0.0)
    ledger.accept(_answer(8, 1, llh=math.nan))
    assert ledger.best is not None
    assert np.isnan(ledger.best.llh)
    ledger.accept(_answer(8, 2, llh=9.0))
    ledger.accept(_answer(8, 3, llh=math.nan))
    assert ledger.best.llh == 9.0
