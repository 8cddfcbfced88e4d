"""What NVML tells of a GPU while it works. NVML comes with the driver, its binding with the package nvidia-ml-py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def gpu(ordinal: int) -> Any:
    """NVML's handle of a CUDA device.

    Raises:
        ImportError: the binding is not installed.
        pynvml.NVMLError: NVML does not answer.
    """
    import pynvml
    from cupy_backends.cuda.api import runtime

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByPciBusId(runtime.deviceGetPCIBusId(ordinal))


def sm_clock(ordinal: int) -> Callable[[], int]:
    """A function that samples the SM clock of a CUDA device, in MHz: 0 where NVML, or its binding, does not tell."""
    try:
        import pynvml
    except ImportError:
        return _unknown
    try:
        handle = gpu(ordinal)
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
    except pynvml.NVMLError:  # as for a part of a GPU, whose clock is not its own
        return _unknown
    return lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))


def _unknown() -> int:
    return 0
