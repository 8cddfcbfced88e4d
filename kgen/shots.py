"""Shots: what the times of replays say, and how many it takes. Nothing here needs a GPU.

The confidence interval of a median is distribution-free: it reaches from the kth least to the kth greatest of n values,
which fails to cover the median only when fewer than k of n fair coins fall on one side (W. J. Conover, Practical
Nonparametric Statistics, on confidence intervals for quantiles).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ROUNDS, LEAST, MOST = 5, 10, 100
"""Rounds taken at a time, at least where nothing is known by then (five have no interval), and in all."""
CONFIDENCE = 0.95
RESOLUTION = 0.005
"""How well times are known, relative to themselves: a candidate's median, and two programs that are told apart."""
THROTTLED = 0.95
"""Of the median clock: a shot at a lower one does not count."""


@dataclass(frozen=True)
class Shots:
    """Rounds in which programs take turns, a shot each: arrays (rounds, programs).

    ``times_us`` are of one launch. ``clocks_mhz`` are the SM clock during each shot, 0 where nobody knows.
    """

    times_us: Array
    clocks_mhz: Array

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.times_us)

    def and_then(self, more: Shots) -> Shots:
        """These and ``more`` rounds."""
        times, clocks = (self.times_us, more.times_us), (self.clocks_mhz, more.clocks_mhz)
        return Shots(np.concatenate(times), np.concatenate(clocks))

    def unthrottled(self) -> Shots:
        """The rounds in which no shot's clock was well below that of the same program's other shots.

        All of them where that leaves fewer than half: such clocks are how this GPU runs these programs.
        """
        clean = (self.clocks_mhz >= THROTTLED * np.median(self.clocks_mhz, axis=0)).all(axis=1)
        return Shots(self.times_us[clean], self.clocks_mhz[clean]) if 2 * clean.sum() >= self.rounds else self


def collect(take: Callable[[int], Shots], *, target: float, give_up_us: float, most: int = MOST) -> Shots:
    """Take rounds, five at a time, until they :func:`suffice` or there are ``most``.

    Throttled ones do not count and are repeated, up to ``most`` more.
    """
    shots = take(ROUNDS)
    clean = shots.unthrottled()
    while clean.rounds < most and shots.rounds < 2 * most and not suffice(clean.times_us, target, give_up_us):
        shots = shots.and_then(take(ROUNDS))
        clean = shots.unthrottled()
    return clean


def suffice(times_us: Array, target: float, give_up_us: float) -> bool:
    """Whether rounds say enough: every program takes more than ``give_up_us``, or its median is known to ``target``.

    The latter is a bound of the half-width of the median's confidence interval, relative to the median; 0 is never met.
    """
    if len(times_us) < ROUNDS:
        return False
    medians = np.median(times_us, axis=0)
    low, high = median_interval(times_us)
    return bool((medians > give_up_us).all() or (high - low < 2 * target * medians).all())


def tied(times_us: Array) -> tuple[bool, ...]:
    """Of programs that took turns, which cannot be told apart from the fastest, by (rounds, programs) times.

    Those are told apart for which the whole confidence interval of the median ratio to the fastest one's time, round by
    round, lies above 1 + :data:`RESOLUTION`.
    """
    fastest = int(np.median(times_us, axis=0).argmin())
    low, _ = median_interval(times_us / times_us[:, [fastest]])
    return tuple(bool(one <= 1 + RESOLUTION) for one in low)


def median_interval(values: Array) -> tuple[Array, Array]:
    """The 95% confidence interval of each column's median; infinite for fewer than six values."""
    rank = _rank(len(values))
    if rank == 0:
        return np.full(values.shape[1], -math.inf), np.full(values.shape[1], math.inf)
    ordered = np.sort(values, axis=0)
    return ordered[rank - 1], ordered[-rank]


@lru_cache
def _rank(count: int) -> int:
    """The greatest k for which fewer than k of ``count`` coins fall on one side with a probability of at most 2.5%."""
    fewer = accumulate(math.comb(count, heads) for heads in range(count))
    return sum(ways <= (1 - CONFIDENCE) / 2 * 2**count for ways in fewer)
