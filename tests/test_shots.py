"""What shots say: a median's interval against the binomial distribution, when to stop, what throttles, what ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from kgen.shots import CONFIDENCE, LEAST, RESOLUTION, ROUNDS, Shots, collect, median_interval, suffice, tied


def column(*values):
    return np.array(values, dtype=float)[:, None]


@pytest.mark.parametrize("count", [6, 7, 10, 25, 60, 100, 400])
def test_the_interval_is_the_narrowest_that_covers_the_median_often_enough(count):
    (low,), (high,) = median_interval(column(*np.random.default_rng(0).permutation(count)))
    rank = int(low) + 1
    assert high == count - rank
    assert 1 - 2 * binom.cdf(rank - 1, count, 0.5) >= CONFIDENCE > 1 - 2 * binom.cdf(rank, count, 0.5)


def test_five_shots_have_no_interval():
    (low,), (high,) = median_interval(column(1, 1, 1, 1, 1))
    assert (low, high) == (-math.inf, math.inf)


def test_the_least_rounds_have_one():
    assert tied(noisy(100.0, 110.0, rounds=LEAST)) == (True, False)


def test_intervals_cover_the_median_of_a_skewed_distribution():
    draws = np.random.default_rng(1).lognormal(size=(40, 4000))
    low, high = median_interval(draws)
    assert CONFIDENCE <= np.mean((low <= 1) & (high >= 1)) < CONFIDENCE + 0.04


@pytest.mark.parametrize(
    ("times_us", "enough"),
    [
        ([100.0] * 4, False),
        ([100.0] * 5, False),
        ([201.0] * 5, True),  # slower than the limit
        ([300.0, 300.0, 100.0, 100.0, 100.0], False),
        ([100.0] * 6, True),
        ([100.0, 100.5, 101.0] * 4, True),  # the interval is 1 us, the target twice 0.5
        ([100.0, 102.0] * 6, False),
    ],
)
def test_a_candidate_goes_on_until_its_median_is_known_or_too_great(times_us, enough):
    assert suffice(column(*times_us), target=RESOLUTION, give_up_us=200.0) is enough


def test_programs_that_take_turns_go_on_until_all_are_known():
    times_us = np.column_stack([[100.0] * 12, [100.0, 102.0] * 6])
    assert not suffice(times_us, target=RESOLUTION, give_up_us=math.inf)
    assert not suffice(times_us, target=RESOLUTION, give_up_us=100.5)
    assert suffice(times_us, target=0.02, give_up_us=math.inf)


class Gun:
    """Takes shots of one program, of given clocks and then of the last; ``taken`` is how many."""

    def __init__(self, *clocks, us=lambda clock: 100.0):
        self.clocks, self.us, self.taken = clocks, us, 0

    def __call__(self, rounds):
        numbers = range(self.taken, self.taken + rounds)
        self.taken += rounds
        clocks = [self.clocks[min(number, len(self.clocks) - 1)] for number in numbers]
        return Shots(column(*map(self.us, clocks)), column(*clocks))


def test_rounds_are_taken_five_at_a_time_until_they_suffice():
    gun = Gun(1980)
    assert collect(gun, target=0.1, give_up_us=math.inf).rounds == gun.taken == 2 * ROUNDS
    slow = Gun(1980)
    assert collect(slow, target=0.1, give_up_us=50.0).rounds == slow.taken == ROUNDS


def test_throttled_shots_are_repeated():
    gun = Gun(*[1980] * 5, *[1000] * 4, 1980, us=lambda clock: 198_000 / clock)
    shots = collect(gun, target=0.0, give_up_us=math.inf, most=20)
    assert set(shots.times_us.ravel()) == {100.0} and set(shots.clocks_mhz.ravel()) == {1980}
    assert shots.rounds == 21 and gun.taken == 25


def test_a_clock_that_rises_drops_the_shots_before_it_did():
    gun = Gun(345, 345, 345, 900, 1980, us=lambda clock: 198_000 / clock)
    assert set(collect(gun, target=0.001, give_up_us=math.inf).times_us.ravel()) == {100.0}


def test_throttled_shots_are_not_repeated_for_ever():
    gun = Gun(*[1980, 1980, 1980, 1500, 1500] * 10, us=lambda clock: np.random.default_rng(gun.taken).normal(100, 9))
    shots = collect(gun, target=1e-9, give_up_us=math.inf, most=20)
    assert gun.taken == 35 and shots.rounds == 21


def test_a_clock_that_never_settles_is_how_the_gpu_runs():
    clocks = np.array([[1980, 1000], [1000, 1980]] * 10, dtype=float)
    shots = Shots(np.full((20, 2), 100.0), clocks)
    assert shots.unthrottled() is shots


def test_a_program_that_always_runs_at_a_lower_clock_is_not_throttled():
    shots = Shots(np.full((20, 2), 100.0), np.tile([1980.0, 1500.0], (20, 1)))
    assert shots.unthrottled().rounds == 20


def test_an_unknown_clock_throttles_nothing():
    assert Shots(np.full((20, 1), 100.0), np.zeros((20, 1))).unthrottled().rounds == 20


def noisy(*medians_us, rounds=100, drift=0.0, seed=0):
    """Times of programs that take turns on a GPU whose noise, and whose drift, all of them share."""
    rng = np.random.default_rng(seed)
    moments = np.linspace(1, 1 + drift, rounds)[:, None]
    return np.array(medians_us) * moments * rng.normal(1, 0.003, (rounds, len(medians_us)))


def test_programs_tie_when_they_are_closer_than_the_resolution():
    assert tied(noisy(100.0, 100.2, 101.5, 130.0)) == (True, True, False, False)
    assert tied(noisy(101.5, 100.0)) == (False, True)
    assert tied(noisy(100.0)) == (True,)


def test_drift_that_programs_share_does_not_make_them_tie():
    assert tied(noisy(100.0, 101.5, drift=0.2)) == (True, False)


def test_nothing_is_told_apart_by_five_shots():
    assert tied(noisy(100.0, 200.0, rounds=5)) == (True, True)


def test_the_same_programs_measured_again_tie_with_the_winner_of_before():
    for seed in range(20):
        before, after = noisy(100.0, 100.3, 100.1, seed=seed), noisy(100.0, 100.3, 100.1, seed=seed + 100)
        assert tied(before)[int(np.median(after, axis=0).argmin())]
