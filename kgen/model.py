"""The performance model: a program's predicted latency, good enough to rank configs.

Each kernel's work items spread over the SMs in waves. An item costs the slowest of its units (tensor cores, shared
memory, special functions, L2) plus a share of the others, more of it the fewer warps there are to overlap them, plus a
latency per pipeline step, which CTAs side by side on an SM hide from one another. The chip's DRAM and L2 bandwidth
bound the whole kernel from below. The constants were fitted by hand to measurements on an H200.
"""

from __future__ import annotations

from collections.abc import Mapping

from kgen.compile import Resources
from kgen.devices import Device
from kgen.machine import RATES, KernelPlan, Program, Unit

_MMA_SYNC_SHARE = {"sm_90": 0.62, "sm_100": 0.5}
"""Share of the peak rate that mma.sync can reach where the peak belongs to another instruction (wgmma, tcgen05)."""
_WGMMA_SHARE = 0.9
"""Share of the peak rate that wgmma can reach."""
_SHARED_BYTES_PER_CLOCK = 128
_SPECIAL_PER_CLOCK = 16
_L2_BYTES_PER_CLOCK = 64
_L2_TO_DRAM_BANDWIDTH = 1.3
_WARPS_TO_OVERLAP = 12
_GPC_SMS = 17
"""SMs among which a cluster of more than a pair must lie: 15 clusters of 8, 30 of 4, 17 of 6 fit an H200 at once."""
_STEP_CLOCKS = 450
_LAUNCH_US = 1.6
_SPILL_BYTES_TO_DOUBLE = 256


def predict_us(program: Program, resources: Mapping[str, Resources] | None = None) -> float:
    """Predicted latency in microseconds; ``resources`` (by kernel symbol) refines occupancy and punishes spills."""
    resources = resources or {}
    return sum(_kernel_us(kernel, program.device, resources.get(kernel.symbol)) for kernel in program.kernels)


def _kernel_us(kernel: KernelPlan, device: Device, resources: Resources | None) -> float:
    ctas = _resident_ctas(kernel, device, resources)
    concurrent = min(ctas, -(-kernel.grid // device.sms))
    clocks = _item_clocks(kernel, device, concurrent)
    rounds = -(-kernel.work_items // (_usable_sms(kernel, device) * concurrent))
    sm_us = rounds * clocks / device.clock_mhz
    dram_us = kernel.total("dram_bytes") / device.dram_bytes_per_s * 1e6
    l2_us = kernel.total("l2_bytes") / (device.dram_bytes_per_s * _L2_TO_DRAM_BANDWIDTH) * 1e6
    spilled_bytes = resources.spill_store_bytes if resources is not None else 0
    return _LAUNCH_US + max(sm_us, dram_us, l2_us) * (1 + spilled_bytes / _SPILL_BYTES_TO_DOUBLE)


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


def _item_clocks(kernel: KernelPlan, device: Device, concurrent: int) -> float:
    """Clocks in which an SM finishes ``concurrent`` work items side by side."""
    warps = concurrent * kernel.threads // 32
    work = concurrent / kernel.work_items
    units = [
        _tensor_clocks(kernel, device, work) / min(1.0, warps / 4),
        work * kernel.total("shared_bytes") / _SHARED_BYTES_PER_CLOCK,
        work * kernel.total("special") / _SPECIAL_PER_CLOCK / min(1.0, warps / 4),
        work * kernel.total("l2_bytes") / _L2_BYTES_PER_CLOCK,
    ]
    exposed = max(0.25, 1 - warps / _WARPS_TO_OVERLAP)
    return max(units) + exposed * (sum(units) - max(units)) + kernel.steps * _STEP_CLOCKS / concurrent


def _tensor_clocks(kernel: KernelPlan, device: Device, work: float) -> float:
    """Clocks of an SM's tensor cores for the share ``work`` of the grid: one pipe, whatever the instruction."""
    shares: dict[Unit, float] = {
        "mma": _MMA_SYNC_SHARE.get(device.arch, 1.0),
        "wgmma": _WGMMA_SHARE,
        "wgmma_float8": _WGMMA_SHARE,
    }
    clocks = 0.0
    for unit, share in shares.items():
        flops = sum(stage.issued_flops for stage in kernel.stages if stage.unit == unit)
        clocks += work * flops / RATES[unit] / (share * device.peak_flops / device.sms / (device.clock_mhz * 1e6))
    return clocks
