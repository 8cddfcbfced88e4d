"""Where a network's time goes: its layers by problem, what each takes, and what it could take at best.

Times are those of tuned configs, measured or modelled one by one; in a network a kernel may begin before the one before
has ended, or find its input in cache, so the whole is not exactly their sum.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kgen.blocks import family
from kgen.devices import Device
from kgen.machine import attainable_us, ideal_us
from kgen.networks.spec import LayerProblem, Network
from kgen.tuned import lookup


@dataclass(frozen=True)
class Row:
    """All layers of one problem. ``us`` is the latency of one of them, None without a tuned config of its own."""

    problem: LayerProblem
    first: str
    """Name of the first of the layers."""
    count: int
    us: float | None
    measured: bool
    ideal_us: float
    attainable_us: float | None
    """By the waterline of the tuned config's kernels."""

    @property
    def total_us(self) -> float | None:
        return None if self.us is None else self.count * self.us

    @property
    def efficiency(self) -> float | None:
        return None if self.us is None else self.ideal_us / self.us


@dataclass(frozen=True)
class Account:
    """A network's rows, in the order in which they run."""

    rows: tuple[Row, ...]

    @property
    def total_us(self) -> float | None:
        """Of all layers one after the other; None while one has no tuned config."""
        parts = [row.total_us for row in self.rows]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    @property
    def ideal_us(self) -> float:
        return sum(row.count * row.ideal_us for row in self.rows)


def account(network: Network, batch: int, size: int, device: Device, folder: Path | None = None) -> Account:
    """The account of a network for ``batch`` images of size x size pixels, from the tuned configs of a device.

    Raises:
        ProblemError: the images are too small.
        TunedConfigError: a tuned-config file is corrupt.
    """
    layers = network.layers(batch, size, size)
    counts = Counter(layer.problem for layer in layers)
    firsts = {layer.problem: layer.name for layer in reversed(layers)}
    return Account(tuple(_row(problem, firsts[problem], count, device, folder) for problem, count in counts.items()))


def _row(problem: LayerProblem, first: str, count: int, device: Device, folder: Path | None) -> Row:
    found = lookup(problem, device, folder)
    ideal = ideal_us(problem.flops, device)
    if found is None or not found.exact or found.stale:
        return Row(problem, first, count, None, False, ideal, None)
    entry = found.entry
    program = family(problem.family).plan(problem, entry.config, device)
    measured = entry.measured is not None
    latency_us = entry.measured.median_us if entry.measured is not None else entry.modelled_us
    return Row(problem, first, count, latency_us, measured, ideal, attainable_us(program))
