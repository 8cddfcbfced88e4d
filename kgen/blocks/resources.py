"""What a CTA may take of an SM, by rules that the kernels of all families obey."""

from __future__ import annotations

from kgen.devices import Device
from kgen.errors import InfeasibleError

REGISTER_OVERHEAD = 24
"""Registers a thread needs for addresses and counters at the least; what the compiler then spills, its log tells."""
_CTA_RESERVED_BYTES = 1024
"""Shared memory the driver keeps per CTA on compute capability 8.0 and later (CUDA programming guide)."""


def ctas_per_sm(shared_bytes: int, threads: int, device: Device) -> int:
    """CTAs that fit on one SM by shared memory and threads."""
    return min(device.shared_per_sm_bytes // (shared_bytes + _CTA_RESERVED_BYTES), device.threads_per_sm // threads)


def check_resources(
    prefix: str, warps: int, shared_bytes: int, accumulators: int, wanted_ctas: int, device: Device
) -> None:
    """Raise InfeasibleError unless ``wanted_ctas`` fit an SM; ``prefix`` begins the names of the kernel's fields."""
    check_threads(prefix, warps)
    check_shared(prefix, warps, shared_bytes, wanted_ctas, device)
    check_registers(prefix, warps, accumulators, wanted_ctas, device)


def check_threads(prefix: str, warps: int) -> None:
    """Raise InfeasibleError unless a CTA can have so many warps."""
    threads = 32 * warps
    if threads > 1024:
        raise InfeasibleError(
            f"{prefix}threads",
            f"a CTA must have at most 1024 threads, but {warps} {prefix}warps make {threads}; use fewer warps",
        )


def check_shared(prefix: str, warps: int, shared_bytes: int, wanted_ctas: int, device: Device) -> None:
    """Raise InfeasibleError unless ``wanted_ctas`` fit an SM by shared memory and threads."""
    threads = 32 * warps
    if shared_bytes > device.shared_per_cta_bytes:
        raise InfeasibleError(
            f"{prefix}shared_memory",
            f"a CTA's shared memory must be at most {device.shared_per_cta_bytes} bytes on {device.name}, but the "
            f"config needs {shared_bytes}; use smaller chunks, fewer {prefix}stages or fewer {prefix}pixels",
        )
    resident = ctas_per_sm(shared_bytes, threads, device)
    if wanted_ctas > resident:
        raise InfeasibleError(
            "ctas_per_sm",
            f"ctas_per_sm must be at most {resident}, what {shared_bytes} bytes of shared memory and {threads} threads "
            f"a CTA allow on {device.name}, but got ctas_per_sm={wanted_ctas}; lower it",
        )


def check_registers(prefix: str, warps: int, accumulators: int, wanted_ctas: int, device: Device) -> None:
    """Raise InfeasibleError unless ``wanted_ctas`` fit an SM by registers."""
    threads = 32 * warps
    limit = min(255, device.registers_per_sm // (threads * wanted_ctas) // 8 * 8)
    needed = accumulators + REGISTER_OVERHEAD
    if needed > limit:
        raise InfeasibleError(
            f"{prefix}registers",
            f"a thread has at most {limit} registers at {threads} threads x {wanted_ctas} CTAs an SM, but the config "
            f"needs about {needed}; use fewer pixels or chunks a warp, or more warps",
        )
