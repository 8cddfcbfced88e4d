"""Loading a program's cubin and launching its kernels with little overhead.

A launch costs about one driver call per kernel: parameters are packed into memory that lives as long as the program,
and the driver is called directly. A kernel whose plan says so begins while the one before it ends (programmatic
stream serialization).
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import lru_cache

from kgen.compile import Cubin
from kgen.errors import DeviceError, KgenError
from kgen.machine import KernelPlan, Program

_PARAMETERS = struct.Struct("QQQQi")  # x, weights, hidden, y, batch: the signature that every kernel shares
_OFFSETS = (0, 8, 16, 24, 32)
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_ALL_SHARED = 100  # the carveout, in percent: kernels stage everything themselves and need no L1


class LaunchError(KgenError):
    """The driver refused to load or launch a kernel."""


class ParameterBlock:
    """Memory that kernel parameters are packed into; the driver copies them during each launch."""

    def __init__(self) -> None:
        self._values = bytearray(_PARAMETERS.size)
        self._view = (ctypes.c_char * _PARAMETERS.size).from_buffer(self._values)
        base = ctypes.addressof(self._view)
        self._pointers = (ctypes.c_void_p * len(_OFFSETS))(*(base + offset for offset in _OFFSETS))
        self.address = ctypes.addressof(self._pointers)
        """Of the pointers to the parameters, as the driver takes them."""

    def pack(self, *values: int) -> None:
        """Addresses of x, weights, hidden and y, and the batch."""
        _PARAMETERS.pack_into(self._values, 0, *values)

    @staticmethod
    def read(address: int) -> tuple[int, ...]:
        """The values of a kernel's parameters; ``address`` is that of the pointers to them."""
        *pointers, batch = (ctypes.c_uint64 * len(_OFFSETS)).from_address(address)
        values = [ctypes.c_uint64.from_address(pointer).value for pointer in pointers]
        return *values, ctypes.c_int.from_address(batch).value


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute with a value of up to three integers."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("value", ctypes.c_uint * 3),
        ("rest", ctypes.c_char * 52),
    )


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig: one launch's shape, which lives as long as its program; the stream is the last launch's."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


def _launch_config(kernel: KernelPlan) -> _LaunchConfig:
    wanted = []
    if kernel.cluster > 1:
        wanted.append(_Attribute(id=_CLUSTER_DIMENSION, value=(kernel.cluster, 1, 1)))
    if kernel.begins_early:
        wanted.append(_Attribute(id=_PROGRAMMATIC_SERIALIZATION, value=(1, 0, 0)))
    return _LaunchConfig(
        grid=(kernel.grid, 1, 1),
        block=(kernel.threads, 1, 1),
        shared_bytes=kernel.shared_bytes,
        attributes=(_Attribute * len(wanted))(*wanted),
        attribute_count=len(wanted),
    )


@lru_cache
def driver_function(name: str, arguments: int) -> Callable[..., int]:
    """A function of the driver that takes so many pointers, or integers no wider, and returns a status.

    ctypes calls it without the GIL.
    """
    function = ctypes.CDLL("libcuda.so.1")[name]
    function.argtypes = (ctypes.c_void_p,) * arguments
    function.restype = ctypes.c_int
    return function


def _resident_ctas(kernel: KernelPlan, handle: int, config: _LaunchConfig) -> int:
    """The grid of a kernel in clusters: where CTAs work through several items each, no more than the GPU holds at once.

    How many clusters fit depends on which SMs of a chip are disabled, and a few that wait would double the time.

    Raises:
        CUDADriverError: the driver does not say.
    """
    if kernel.cluster == 1 or kernel.work_items <= kernel.grid:
        return kernel.grid
    from cupy_backends.cuda.api import driver

    clusters = ctypes.c_int()
    occupancy = driver_function("cuOccupancyMaxActiveClusters", 3)
    driver.check_status(occupancy(ctypes.byref(clusters), handle, ctypes.byref(config)))
    return min(kernel.grid, max(1, clusters.value) * kernel.cluster)


class _Thread(threading.local):
    """What a thread remembers: whether it has made a CUDA context current, without which no driver call works."""

    bound = False


class LoadedProgram:
    """A program's kernels, loaded on its device and ready to launch.

    Threads may share it: one launch at a time queues its kernels, so that those of two launches never interleave.

    Raises:
        DeviceError: the program was planned for a GPU that is not in this machine.
        LaunchError: the driver rejects the cubin or a kernel's shared memory.
    """

    def __init__(self, program: Program, cubin: Cubin) -> None:
        ordinal = program.device.ordinal
        if ordinal is None:
            raise DeviceError(
                f"kernels run on a local GPU only, but {program.device.name} names a datasheet; "
                "choose a device such as cuda:0"
            )
        from cupy.cuda import Device as CurrentDevice
        from cupy.cuda.function import Module
        from cupy_backends.cuda.api import driver, runtime

        self.program = program
        self.ordinal = ordinal
        self._driver_error: type[Exception] = driver.CUDADriverError
        self._launch_kernel = driver_function("cuLaunchKernelEx", 4)
        self._get_device = runtime.getDevice
        self._set_device = runtime.setDevice
        self._parameters = ParameterBlock()
        self._lock = threading.Lock()
        self._thread = _Thread()
        self._stream = 0
        self._module = Module()
        try:
            with CurrentDevice(ordinal):
                self._module.load(cubin.data)
                self._kernels = tuple(self._launchable(kernel) for kernel in program.kernels)
        except driver.CUDADriverError as error:
            raise LaunchError(
                f"{program.device.title} rejects the kernels of {program.problem} with {error}; compile for "
                f"{program.arch}, or choose another config"
            ) from error

    def _launchable(self, kernel: KernelPlan) -> tuple[int, _LaunchConfig, int]:
        """A kernel's handle, its launch shape, and where in memory that lies."""
        handle, config = self._function(kernel.symbol, kernel.shared_bytes), _launch_config(kernel)
        config.grid[0] = _resident_ctas(kernel, handle, config)
        return handle, config, ctypes.addressof(config)

    def _function(self, symbol: str, shared_bytes: int) -> int:
        """Handle of one kernel, allowed to use ``shared_bytes`` of dynamic shared memory; the module owns it."""
        from cupy_backends.cuda.api import driver

        handle = int(self._module.get_function(symbol).ptr)
        driver.funcSetAttribute(handle, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
        driver.funcSetAttribute(handle, driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, _ALL_SHARED)
        return handle

    def launch(
        self, x_pointer: int, weights_pointer: int, hidden_pointer: int, y_pointer: int, batch: int, stream_pointer: int
    ) -> None:
        """Queue all kernels, in order, on one stream; pointers are device addresses, 16-byte aligned.

        ``hidden_pointer`` is a workspace of ``program.workspace_bytes``, or 0 for a program without one.

        Raises:
            LaunchError: the driver refuses the launch.
        """
        if not self._thread.bound or self._get_device() != self.ordinal:
            self._launch_elsewhere(x_pointer, weights_pointer, hidden_pointer, y_pointer, batch, stream_pointer)
            return
        launch_kernel, address = self._launch_kernel, self._parameters.address
        with self._lock:  # the driver is called without the GIL
            self._parameters.pack(x_pointer, weights_pointer, hidden_pointer, y_pointer, batch)
            if stream_pointer != self._stream:
                self._stream = stream_pointer
                for _, config, _ in self._kernels:
                    config.stream = stream_pointer
            for handle, _, config_address in self._kernels:
                status = launch_kernel(config_address, handle, address, None)
                if status:
                    raise self._refused(status)

    def _refused(self, status: int) -> LaunchError:
        return LaunchError(
            f"the driver refuses to launch the kernels of {self.program.problem} with {self._driver_error(status)}; "
            "check that the stream belongs to the block's device and that no earlier kernel failed"
        )

    def _launch_elsewhere(self, *arguments: int) -> None:
        """Launch from a thread that has not touched the device yet, or whose current device is another one."""
        previous = self._get_device()
        # A driver call needs a current context, which the runtime creates and binds on setDevice.
        self._set_device(self.ordinal)
        self._thread.bound = True
        try:
            self.launch(*arguments)
        finally:
            if previous != self.ordinal:
                self._set_device(previous)
