"""The performance model: a program's predicted latency, good enough to rank configs.

Each kernel's work items spread over the SMs in waves. A wave costs the slowest of an SM's units (tensor cores, shared
memory, that of the cluster, special functions, L2) plus a share of the others, more of it the fewer warps there are to
overlap them, plus a latency per pipeline step. The chip's DRAM and L2 bandwidth bound the whole kernel from below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kgen.compile import Resources
from kgen.devices import Device
from kgen.machine import RATES, KernelPlan, Program, Unit

_MMA_SHARE = {"sm_90": 0.62, "sm_100": 0.5}
"""Share of the peak rate that mma.sync can reach where the peak belongs to another instruction (wgmma, tcgen05)."""
_GPC_SMS = 17
"""SMs among which a cluster of more than a pair must lie: 15 clusters of 8, 30 of 4, 17 of 6 fit an H200 at once."""


@dataclass(frozen=True)
class Constants:
    """What the model cannot know of a GPU without measurements; rates are of an SM and a clock.

    The defaults are fitted to twelve recorded spaces of an H200, nine of which are in ``benchmarks/spaces``, by
    ``benchmarks/model_quality.py``: together, so that one may make up for another.
    """

    mma_share: float = 0.48
    """Of the peak rate, that kernels get of mma.sync."""
    wgmma_share: float = 1.0
    shared_bytes: float = 157.0
    distributed_bytes: float = 19.9
    """Between the shared memories of a cluster's CTAs."""
    special: float = 12.8
    l2_bytes: float = 80.0
    l2_to_dram: float = 1.2
    """Bandwidth of L2 over that of DRAM, of the chip."""
    warps_to_overlap: float = 13.0
    """Of an SM, that hide nearly all of the lesser units."""
    least_exposed: float = 0.52
    """Share of the lesser units that is never hidden."""
    step_clocks: float = 223.0
    launch_us: float = 1.54
    spill_bytes_to_double: float = 256.0


def constants_of(device: Device) -> Constants:
    """The constants for a device: those of an H200, but for the share of the peak rate that is mma.sync's."""
    return Constants(mma_share=Constants.mma_share * _MMA_SHARE.get(device.arch, 1.0))


@dataclass(frozen=True)
class KernelTerms:
    """What the model says of one kernel, in microseconds: what bounds it, each as if it were alone.

    ``units_us`` is the time of each unit of an SM, ``exposed`` the share of the lesser ones that the slowest does not
    hide, ``steps_us`` the latency of pipeline steps; together they make ``sm_us``. ``dram_us`` and ``l2_us`` bound the
    chip. Spills multiply the greatest of the three by ``spill_factor``; ``launch_us`` comes on top.
    """

    symbol: str
    units_us: Mapping[str, float]
    exposed: float
    steps_us: float
    dram_us: float
    l2_us: float
    spill_factor: float
    launch_us: float

    @property
    def sm_us(self) -> float:
        """Time of the busiest SM."""
        slowest = max(self.units_us.values())
        return slowest + self.exposed * (sum(self.units_us.values()) - slowest) + self.steps_us

    @property
    def total_us(self) -> float:
        """Predicted latency of the kernel."""
        return self.launch_us + max(self.sm_us, self.dram_us, self.l2_us) * self.spill_factor

    @property
    def in_sm_us(self) -> dict[str, float]:
        """The units of an SM and its pipeline steps by name."""
        return {**self.units_us, "pipeline-step latency": self.steps_us}

    @property
    def binding(self) -> str:
        """What binds: the launch where it is most of the time, the chip's bandwidth, or the slowest within an SM."""
        return self._binding[0]

    @property
    def binding_us(self) -> float:
        """Time that what binds would take alone."""
        return self._binding[1]

    @property
    def _binding(self) -> tuple[str, float]:
        chip = max(("DRAM bandwidth", self.dram_us), ("the chip's L2 bandwidth", self.l2_us), key=lambda term: term[1])
        if self.total_us < 2 * self.launch_us:
            return "the launch", self.launch_us
        return chip if chip[1] >= self.sm_us else max(self.in_sm_us.items(), key=lambda term: term[1])


def predict_us(program: Program, resources: Mapping[str, Resources] | None = None) -> float:
    """Predicted latency in microseconds; ``resources`` (by kernel symbol) refines occupancy and punishes spills."""
    return sum(terms.total_us for terms in model_terms(program, resources))


def model_terms(
    program: Program, resources: Mapping[str, Resources] | None = None, constants: Constants | None = None
) -> tuple[KernelTerms, ...]:
    """The terms of each kernel, whose sum is the predicted latency; ``constants`` are by default the device's."""
    resources = resources or {}
    known = constants or constants_of(program.device)
    return tuple(_terms(kernel, program.device, resources.get(kernel.symbol), known) for kernel in program.kernels)


def _terms(kernel: KernelPlan, device: Device, resources: Resources | None, constants: Constants) -> KernelTerms:
    ctas = _resident_ctas(kernel, device, resources)
    sms = _usable_sms(kernel, device)
    concurrent = min(ctas, -(-kernel.grid // sms))
    rounds = -(-kernel.work_items // (sms * concurrent))
    warps = concurrent * kernel.threads // 32
    scale = rounds / device.clock_mhz
    spilled_bytes = resources.spill_store_bytes if resources is not None else 0
    units = _unit_clocks(kernel, device, concurrent, constants)
    return KernelTerms(
        symbol=kernel.symbol,
        units_us={name: scale * clocks for name, clocks in units.items()},
        exposed=max(constants.least_exposed, 1 - warps / constants.warps_to_overlap),
        steps_us=scale * kernel.steps * constants.step_clocks,
        dram_us=kernel.total("dram_bytes") / device.dram_bytes_per_s * 1e6,
        l2_us=kernel.total("l2_bytes") / (device.dram_bytes_per_s * constants.l2_to_dram) * 1e6,
        spill_factor=1 + spilled_bytes / constants.spill_bytes_to_double,
        launch_us=constants.launch_us,
    )


def _usable_sms(kernel: KernelPlan, device: Device) -> int:
    """SMs that whole clusters of the kernel can occupy."""
    if kernel.cluster <= 2:
        return device.sms
    return device.sms * (_GPC_SMS // kernel.cluster * kernel.cluster) // _GPC_SMS


def _resident_ctas(kernel: KernelPlan, device: Device, resources: Resources | None) -> int:
    if resources is None:
        return kernel.ctas_per_sm
    by_registers = device.registers_per_sm // (kernel.threads * max(1, resources.registers))
    return max(1, min(kernel.ctas_per_sm, by_registers))


def _unit_clocks(kernel: KernelPlan, device: Device, concurrent: int, constants: Constants) -> dict[str, float]:
    """Clocks of each unit of an SM for ``concurrent`` work items side by side."""
    busy = min(1.0, concurrent * kernel.threads // 32 / 4)
    work = concurrent / kernel.work_items
    return {
        "tensor cores": _tensor_clocks(kernel, device, work, constants) / busy,
        "shared-memory bandwidth": work * kernel.total("shared_bytes") / constants.shared_bytes,
        "distributed shared memory": work * kernel.total("distributed_bytes") / constants.distributed_bytes,
        "special functions": work * kernel.total("special") / constants.special / busy,
        "an SM's L2 bandwidth": work * kernel.total("l2_bytes") / constants.l2_bytes,
    }


def _tensor_clocks(kernel: KernelPlan, device: Device, work: float, constants: Constants) -> float:
    """Clocks of an SM's tensor cores for the share ``work`` of the grid: one pipe, whatever the instruction."""
    shares: dict[Unit, float] = {
        "mma": constants.mma_share,
        "wgmma": constants.wgmma_share,
        "wgmma_float8": constants.wgmma_share,
    }
    clocks = 0.0
    for unit, share in shares.items():
        flops = sum(stage.issued_flops for stage in kernel.stages if stage.unit == unit)
        clocks += work * flops / RATES[unit] / (share * device.peak_flops / device.sms / (device.clock_mhz * 1e6))
    return clocks
