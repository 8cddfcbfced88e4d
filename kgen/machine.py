"""The tensor machine: a kernel as stages over tensors that live at memory levels, and the waterline it obeys.

P is the device's peak arithmetic rate in 16 bits, B its DRAM bandwidth, F a block's operations by direct convolution
and D the bytes its kernels move to and from DRAM. Definitions follow arXiv 2404.03617: ideal latency F / P, operational
intensity F / D, waterline P / B. The attainable latency of a sequence of kernels is the sum of max(F/P, D/B).

Float8 matmuls run at 2 P, and attainable latency takes that into account. Ideal latency, and so efficiency, is by P all
the same: float8 and 16 bits are compared by one yardstick, on which float8 may exceed 100%.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kgen.devices import Device

StageKind = Literal["load", "conv", "matmul", "activate", "store"]
Unit = Literal["mma", "wgmma", "wgmma_float8"]

RATES: Mapping[Unit, int] = {"mma": 1, "wgmma": 1, "wgmma_float8": 2}
"""Peak rate of each unit's operations, as a multiple of P."""


class Problem(Protocol):
    """What every family's problem offers."""

    @property
    def flops(self) -> int: ...
    @property
    def min_dram_bytes(self) -> int: ...
    def to_json(self) -> dict[str, Any]: ...


class Config(Protocol):
    """What every family's config offers. ``boundary`` is the side it is on, which decides what other fields it has."""

    @property
    def boundary(self) -> str: ...
    @property
    def template(self) -> str:
        """The file that the kernels are rendered from."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Stage:
    """One stage of a kernel, summed over the whole grid.

    ``flops`` counts useful operations (direct convolution, no padding); ``issued_flops`` what the tensor cores execute,
    with padding and recomputation, by the instructions of ``unit``. ``special`` counts special-function operations.
    ``bytes`` are moved per level; ``distributed_bytes`` between the shared memories of a cluster's CTAs.
    """

    name: str
    kind: StageKind
    flops: int = 0
    issued_flops: int = 0
    special: int = 0
    dram_bytes: int = 0
    l2_bytes: int = 0
    shared_bytes: int = 0
    distributed_bytes: int = 0
    unit: Unit = "mma"


@dataclass(frozen=True)
class KernelPlan:
    """One kernel launch: entry symbol, stages, and launch shape.

    ``work_items`` is how many tiles (times splits) the grid works through; ``grid`` is how many CTAs are launched.
    ``steps`` is the number of pipeline steps per work item. ``accumulators`` estimates live registers a thread.
    ``begins_early``: it may begin before the kernel before it has ended, and waits itself for what that one writes.
    ``cluster``: so many neighbouring CTAs run together and reach each other's shared memory; it divides ``grid``.
    """

    symbol: str
    stages: tuple[Stage, ...]
    grid: int
    threads: int
    shared_bytes: int
    work_items: int
    steps: int
    ctas_per_sm: int
    accumulators: int
    begins_early: bool = False
    cluster: int = 1

    def total(self, field: str) -> int:
        """Sum of one numeric field of :class:`Stage` over the stages."""
        return sum(getattr(stage, field) for stage in self.stages)


@dataclass(frozen=True)
class Program:
    """The plan of a block: its kernels in launch order, what renders them, and the workspace they share.

    ``constants`` become constexpr numbers of the prologue; ``fields`` are the template's other named fields. ``arch``
    is what the source is compiled for: the device's own, or one with instructions of that GPU alone, such as sm_90a.
    """

    problem: Problem
    config: Config
    device: Device
    arch: str
    template: str
    fields: Mapping[str, str]
    constants: Mapping[str, int | bool]
    kernels: tuple[KernelPlan, ...]
    workspace_bytes: int
    tiles: int
    ragged: bool

    @property
    def dram_bytes(self) -> int:
        """Bytes all kernels move to and from DRAM."""
        return sum(kernel.total("dram_bytes") for kernel in self.kernels)


def ideal_us(flops: float, device: Device) -> float:
    """Ideal latency F / P in microseconds."""
    return flops / device.peak_flops * 1e6


def efficiency(flops: float, latency_us: float, device: Device) -> float:
    """Computational efficiency: ideal latency, by the peak rate in 16 bits, over measured latency."""
    return ideal_us(flops, device) / latency_us


def intensity(program: Program) -> float:
    """Operational intensity F / D in operations per byte."""
    return program.problem.flops / program.dram_bytes


def waterline(device: Device) -> float:
    """The device's waterline P / B in operations per byte."""
    return device.peak_flops / device.dram_bytes_per_s


def attainable_us(program: Program) -> float:
    """Attainable latency of the kernel sequence: the sum of max(F/P, D/B), in microseconds, float8 at 2 P."""
    device = program.device
    return sum(
        max(
            sum(ideal_us(stage.flops / RATES[stage.unit], device) for stage in kernel.stages),
            kernel.total("dram_bytes") / device.dram_bytes_per_s * 1e6,
        )
        for kernel in program.kernels
    )


def attainable_efficiency(program: Program) -> float:
    """Highest computational efficiency that waterline analysis allows this kernel sequence."""
    return ideal_us(program.problem.flops, program.device) / attainable_us(program)
