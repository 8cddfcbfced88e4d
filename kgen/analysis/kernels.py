"""Waterline analysis of a sequence of kernels, each known by its operations and the least bytes it moves.

P is the device's peak rate in 16 bits, B its DRAM bandwidth. A kernel of F operations and D bytes has the operational
intensity F / D and the attainable latency max(F/P, D/B); a sequence's attainable latency is the sum over its kernels.
The names are those of arXiv 2404.03617; the formula for sequences and what is a kernel's D are derived here. At the
level of L2 the same bytes are divided by L2's bandwidth: the bound of a sequence whose tensors all stay in L2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kgen.devices import Device
from kgen.machine import ideal_us


@dataclass(frozen=True)
class Kernel:
    """``times`` launches of one kernel; figures are of one launch.

    ``flops`` counts operations by direct convolution, 2 per multiply-accumulate; ``float8_flops`` of them run at 2 P.
    ``dram_bytes`` reads every input and weight once and writes every output once. ``measured_us`` is the latency of
    the tuned kernels that do the same, None where there are none.
    """

    name: str
    flops: int
    dram_bytes: int
    float8_flops: int = 0
    times: int = 1
    measured_us: float | None = None

    @property
    def intensity(self) -> float:
        """Operational intensity F / D in operations per byte."""
        return self.flops / self.dram_bytes

    def ideal_us(self, device: Device) -> float:
        """F / P in microseconds, by the peak in 16 bits even where float8 may exceed it."""
        return ideal_us(self.flops, device)

    def attainable_us(self, device: Device) -> float:
        """max(F/P, D/B) in microseconds, float8 at 2 P."""
        return self._bound_us(device, device.dram_bytes_per_s)

    def l2_attainable_us(self, device: Device) -> float | None:
        """The same with L2's bandwidth as B; None where that is not known."""
        bandwidth = device.l2_bytes_per_s
        return None if bandwidth is None else self._bound_us(device, bandwidth)

    def _bound_us(self, device: Device, bytes_per_s: float) -> float:
        arithmetic_us = ideal_us(self.flops - self.float8_flops / 2, device)
        return max(arithmetic_us, self.dram_bytes / bytes_per_s * 1e6)


@dataclass(frozen=True)
class Sequence:
    """Kernels that run one after the other on a device; totals are over all launches."""

    name: str
    kernels: tuple[Kernel, ...]
    device: Device

    @property
    def flops(self) -> int:
        return sum(kernel.times * kernel.flops for kernel in self.kernels)

    @property
    def dram_bytes(self) -> int:
        return sum(kernel.times * kernel.dram_bytes for kernel in self.kernels)

    @property
    def launches(self) -> int:
        return sum(kernel.times for kernel in self.kernels)

    @property
    def ideal_us(self) -> float:
        return ideal_us(self.flops, self.device)

    @property
    def attainable_us(self) -> float:
        """The sum of max(F/P, D/B) in microseconds."""
        return sum(kernel.times * kernel.attainable_us(self.device) for kernel in self.kernels)

    @property
    def l2_attainable_us(self) -> float | None:
        """The same at the level of L2; None where its bandwidth is not known."""
        return _sum((kernel.times, kernel.l2_attainable_us(self.device)) for kernel in self.kernels)

    @property
    def measured_us(self) -> float | None:
        """None while one of the kernels was not measured."""
        return _sum((kernel.times, kernel.measured_us) for kernel in self.kernels)

    @property
    def attainable_efficiency(self) -> float:
        """Ideal over attainable latency: the highest efficiency that the waterline allows."""
        return self.ideal_us / self.attainable_us

    def share(self, kernel: Kernel) -> float:
        """The part of the sequence's attainable latency that all launches of ``kernel`` take."""
        return kernel.times * kernel.attainable_us(self.device) / self.attainable_us


def merged(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """Kernels of equal figures as one, under the name of the first, in the order of first appearance."""
    found: dict[Kernel, Kernel] = {}
    for kernel in kernels:
        key = replace(kernel, name="", times=1)
        first = found.get(key)
        found[key] = kernel if first is None else replace(first, times=first.times + kernel.times)
    return tuple(found.values())


def _sum(terms: Iterable[tuple[int, float | None]]) -> float | None:
    total = 0.0
    for times, value in terms:
        if value is None:
            return None
        total += times * value
    return total
