"""From figures to coordinates: an axis's range and ticks, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """Maps ``low`` to ``high`` onto the coordinates ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The coordinate of ``value``."""
        low, high, value = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            return [one for one in every if self.low <= one <= self.high]
        step = _round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [step * k for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Scale:
    """A scale that holds ``values`` with some room; a linear one starts at 0."""
    if log:
        return Scale(min(values) / 1.15, max(values) * 1.15, start, end, log=True)
    return Scale(0.0, (max(values) or 1.0) * 1.05, start, end)


def label(value: float) -> str:
    """A tick's text."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))
