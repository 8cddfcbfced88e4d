"""The numbers behind the waterline plot: a bar for every kernel, on a log axis, in or out of the water."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.analysis.kernels import Sequence
from kgen.machine import waterline


@dataclass(frozen=True)
class Bar:
    """One kernel's bar. ``left`` and ``width`` are shares of the sequence's operations, ``height`` is F / D."""

    name: str
    left: float
    width: float
    height: float
    under_water: bool


def bars(sequence: Sequence) -> tuple[Bar, ...]:
    """A bar for every kernel that has operations, from left to right; the widths add up to 1."""
    level, left, found = waterline(sequence.device), 0.0, []
    for kernel in sequence.kernels:
        if not kernel.flops:
            continue
        width = kernel.times * kernel.flops / sequence.flops
        found.append(Bar(kernel.name, left, width, kernel.intensity, kernel.intensity < level))
        left += width
    return tuple(found)


def caption(sequence: Sequence) -> str:
    """The sequence's name and latencies, and what kernels without operations, which have no bar, take of them."""
    idle = [kernel for kernel in sequence.kernels if not kernel.flops]
    idle_us = sum(kernel.times * kernel.attainable_us(sequence.device) for kernel in idle)
    lines = [
        f"{sequence.name}, kernels: {sequence.launches}",
        f"attainable {sequence.attainable_us:.1f} us, ideal {sequence.ideal_us:.1f} us",
    ]
    if sequence.measured_us is not None:
        lines.append(f"measured {sequence.measured_us:.1f} us")
    if idle:
        lines.append(f"attainable includes {idle_us:.1f} us of kernels without operations (no bar)")
    return "\n".join(lines)
