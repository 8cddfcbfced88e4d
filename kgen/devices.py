"""GPUs to generate for: datasheet records of known ones, and the ones in this machine.

Peak rates are dense (no sparsity) 16-bit tensor-core operations with fp32 accumulation; float8 runs at twice the rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kgen.errors import DeviceError

MIN_COMPUTE_CAPABILITY = 80  # bf16 tensor cores and cp.async begin with sm_80


@dataclass(frozen=True)
class Device:
    """What kgen knows of one GPU.

    ``peak_flops`` is FLOP/s, dense 16-bit tensor cores with fp32 accumulation. A datasheet may quote it at a clock
    below ``clock_mhz``, the highest boost clock. ``shared_per_cta_bytes`` is the opt-in maximum of dynamic shared
    memory. ``source`` says where the numbers come from. ``ordinal`` is the CUDA ordinal of a local GPU, None otherwise.
    ``l2_bytes_per_s`` is the most that kernels were seen to draw from L2 (docs/performance.md), None where nobody
    looked: no datasheet has it.
    """

    name: str
    title: str
    arch: str
    sms: int
    clock_mhz: int
    peak_flops: float
    dram_bytes_per_s: float
    l2_bytes: int
    shared_per_cta_bytes: int
    shared_per_sm_bytes: int
    registers_per_sm: int
    threads_per_sm: int
    source: str
    ordinal: int | None = None
    l2_bytes_per_s: float | None = None

    @property
    def slug(self) -> str:
        """The title as a file name: ``"nvidia-h200"``."""
        return _slug(self.title)

    @property
    def has_clusters(self) -> bool:
        """Whether its CTAs form clusters, and a kernel may begin before the one before has ended: from sm_90 on."""
        return int(self.arch.removeprefix("sm_")) >= 90


@dataclass(frozen=True)
class _Arch:
    """Limits of one compute capability (CUDA C++ Programming Guide, technical specifications per capability).

    ``flops_per_clock`` is an SM's 16-bit tensor-core rate with fp32 accumulation; GeForce parts run at half of it.
    """

    flops_per_clock: int
    shared_per_cta_bytes: int
    shared_per_sm_bytes: int
    threads_per_sm: int
    geforce_flops_per_clock: int | None = None


_ARCHS: Mapping[str, _Arch] = {
    "sm_80": _Arch(2048, 166912, 167936, 2048),
    "sm_86": _Arch(1024, 101376, 102400, 1536, 512),
    "sm_87": _Arch(1024, 166912, 167936, 1536),
    "sm_89": _Arch(1024, 101376, 102400, 1536, 512),
    "sm_90": _Arch(4096, 232448, 233472, 2048),
    "sm_100": _Arch(8192, 232448, 233472, 2048),
    "sm_103": _Arch(8192, 232448, 233472, 2048),
    "sm_120": _Arch(1024, 101376, 102400, 1536, 512),
    "sm_121": _Arch(1024, 101376, 102400, 1536, 512),
}


def _known(
    name: str,
    title: str,
    arch: str,
    sms: int,
    clock_mhz: int,
    tflops: float,
    gb_per_s: float,
    l2_mib: float,
    source: str,
    l2_gb_per_s: float | None = None,
) -> Device:
    limits = _ARCHS[arch]
    return Device(
        name=name,
        title=title,
        arch=arch,
        sms=sms,
        clock_mhz=clock_mhz,
        peak_flops=round(tflops * 10) * 1e11,
        dram_bytes_per_s=gb_per_s * 1e9,
        l2_bytes=int(l2_mib * 2**20),
        shared_per_cta_bytes=limits.shared_per_cta_bytes,
        shared_per_sm_bytes=limits.shared_per_sm_bytes,
        registers_per_sm=65536,
        threads_per_sm=limits.threads_per_sm,
        source=source,
        l2_bytes_per_s=None if l2_gb_per_s is None else l2_gb_per_s * 1e9,
    )


# fmt: off
_KNOWN = (
    #      name       title                      arch     SMs  MHz   TFLOP/s  GB/s  L2 MiB
    _known("h200", "NVIDIA H200", "sm_90", 132, 1980, 989.4, 4800, 60,
           "NVIDIA H200 datasheet (SXM, 1979 TFLOP/s with sparsity), NVIDIA H100 whitepaper; clock and L2 by CUDA",
           l2_gb_per_s=6600),
    _known("h100", "NVIDIA H100 80GB HBM3", "sm_90", 132, 1980, 989.4, 3350, 50,
           "NVIDIA H100 datasheet and whitepaper (SXM5, 80 GB); clock by CUDA"),
    _known("a100", "NVIDIA A100-SXM4-80GB", "sm_80", 108, 1410, 312.0, 2039, 40,
           "NVIDIA A100 80GB datasheet and A100 whitepaper (SXM4, 80 GB)"),
    _known("l4", "NVIDIA L4", "sm_89", 58, 2040, 121.0, 300, 48,
           "NVIDIA L4 datasheet (242 TFLOP/s is with sparsity) and NVIDIA Ada whitepaper"),
    _known("rtx3090", "NVIDIA GeForce RTX 3090", "sm_86", 82, 1695, 71.0, 936, 6,
           "NVIDIA GA102 whitepaper, FP16 with FP32 accumulate"),
    _known("rtx4090", "NVIDIA GeForce RTX 4090", "sm_89", 128, 2520, 165.2, 1008, 72,
           "NVIDIA Ada whitepaper, FP16 with FP32 accumulate"),
    _known("rtx5090", "NVIDIA GeForce RTX 5090", "sm_120", 170, 2407, 209.5, 1792, 96,
           "NVIDIA RTX Blackwell whitepaper, FP16 with FP32 accumulate"),
    _known("b200", "NVIDIA B200", "sm_100", 148, 1965, 2250.0, 8000, 126.5,
           "NVIDIA HGX B200 datasheet (4.5 PFLOP/s a GPU is with sparsity); SMs, clock and L2 by CUDA"),
)
# fmt: on


def known_devices() -> tuple[Device, ...]:
    """The GPUs with a datasheet record, which can be generated for without having one."""
    return _KNOWN


def local_devices() -> tuple[Device, ...]:
    """The GPUs that CuPy sees, in CUDA order; () without CuPy, driver or GPU. Creates no CUDA context."""
    try:
        from cupy_backends.cuda.api import runtime

        count = int(runtime.getDeviceCount())
        return tuple(_read_device(runtime, ordinal) for ordinal in range(count))
    except (ImportError, OSError, RuntimeError):
        return ()


def find_device(spec: str | None) -> Device:
    """The device that ``spec`` names.

    ``"cuda:0"`` is a local GPU, ``"h200"`` a datasheet record; None is the first local GPU, or the H200's record
    when there is none.

    Raises:
        DeviceError: ``spec`` names nothing, or a GPU older than sm_80.
    """
    local = local_devices()
    wanted = "cuda:0" if spec is None and local else "h200" if spec is None else spec.strip().lower()
    choices = {f"cuda:{device.ordinal}": device for device in local} | {device.name: device for device in _KNOWN}
    device = choices.get(wanted)
    if device is None:
        absent = " (no local GPU was found)" if not local else ""
        raise DeviceError(f"device must be one of {', '.join(choices)}{absent}, but got {spec!r}")
    if _capability(device.arch) < MIN_COMPUTE_CAPABILITY:
        raise DeviceError(
            f"device {wanted} must be sm_{MIN_COMPUTE_CAPABILITY} or newer, but {device.title} is {device.arch}; "
            f"choose from {', '.join(name for name, other in choices.items() if other is not device)}"
        )
    return device


def _read_device(runtime: Any, ordinal: int) -> Device:
    """One local GPU: counts, clock and sizes are read off the card, rates come from its datasheet when it has one."""

    def attribute(name: str) -> int:
        return int(runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{name}"), ordinal))

    properties = runtime.getDeviceProperties(ordinal)
    title = properties["name"].decode()
    read = Device(
        name=_slug(title).removeprefix("nvidia-"),
        title=title,
        arch=f"sm_{properties['major']}{properties['minor']}",
        sms=attribute("MultiProcessorCount"),
        clock_mhz=attribute("ClockRate") // 1000,
        peak_flops=0.0,
        # Two transfers a clock over the whole bus; the attribute is in kHz.
        dram_bytes_per_s=2e3 * attribute("MemoryClockRate") * attribute("GlobalMemoryBusWidth") / 8,
        l2_bytes=attribute("L2CacheSize"),
        shared_per_cta_bytes=attribute("MaxSharedMemoryPerBlockOptin"),
        shared_per_sm_bytes=attribute("MaxSharedMemoryPerMultiprocessor"),
        registers_per_sm=attribute("MaxRegistersPerMultiprocessor"),
        threads_per_sm=attribute("MaxThreadsPerMultiProcessor"),
        source="estimated from the SM count and clocks that CUDA reports: no datasheet record of this GPU",
        ordinal=ordinal,
    )
    sheet = next((device for device in _KNOWN if device.title == title), None)
    if sheet is None:
        return replace(read, peak_flops=_estimated_peak_flops(read))
    return replace(
        read,
        name=sheet.name,
        peak_flops=sheet.peak_flops,
        dram_bytes_per_s=sheet.dram_bytes_per_s,
        source=sheet.source,
        l2_bytes_per_s=sheet.l2_bytes_per_s,
    )


def _estimated_peak_flops(device: Device) -> float:
    """SMs x clock x an SM's rate; an architecture without a record counts as the newest older one."""
    capability = _capability(device.arch)
    older = [arch for arch in _ARCHS if _capability(arch) <= capability]
    arch = _ARCHS[max(older, key=_capability, default="sm_80")]
    per_clock = arch.geforce_flops_per_clock if "GeForce" in device.title else None
    return device.sms * device.clock_mhz * 1e6 * float(per_clock or arch.flops_per_clock)


def _capability(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
