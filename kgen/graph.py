"""A CUDA graph of launches that takes its first input and its last output anew at every start.

CuPy captures and launches graphs too, but keeps no nodes, without which the parameters of a kernel cannot be changed;
so the driver is called directly, as it is for launches.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable

from kgen.launch import LaunchError, ParameterBlock, driver_function

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
_X, _Y = 0x10, 0x20
"""Addresses at which no array lies; the nodes that they were given to are those to change."""


class _NodeParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("parameters", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    )


class _Node:
    """A kernel node that reads x, writes y, or both."""

    def __init__(self, handle: int, launch: _NodeParameters) -> None:
        self._handle = handle
        self._launch = launch
        self._parameters = ParameterBlock()
        self._values = ParameterBlock.read(launch.parameters)
        launch.parameters = self._parameters.address

    @property
    def is_end(self) -> bool:
        return self._values[0] == _X or self._values[3] == _Y

    def bind(self, executable: int, x: int, y: int) -> int:
        """Change the parameters for starts to come; returns the driver's status."""
        first, weights, hidden, last, batch = self._values
        self._parameters.pack(x if first == _X else first, weights, hidden, y if last == _Y else last, batch)
        return driver_function("cuGraphExecKernelNodeSetParams_v2", 3)(
            executable, self._handle, ctypes.byref(self._launch)
        )


class LaunchGraph:
    """What ``record(x, y, stream)`` launches, captured on the current device.

    ``record`` must only launch kernels, with the addresses x and y that it is given and others that stay valid.

    Raises:
        LaunchError: the driver refuses to capture.
    """

    def __init__(self, record: Callable[[int, int, int], None]) -> None:
        graph = _capture(record)
        executable = ctypes.c_void_p()
        _check(driver_function("cuGraphInstantiateWithFlags", 3)(ctypes.byref(executable), graph, None))
        assert executable.value is not None
        self._executable = executable.value
        self._ends = [node for node in _nodes(graph) if node.is_end]
        self._bound: tuple[int, int] | None = None
        self._lock = threading.Lock()  # the driver is called without the GIL
        self._launch = driver_function("cuGraphLaunch", 2)
        weakref.finalize(self, _destroy, executable.value, graph).atexit = False  # the driver may be gone by then

    def start(self, x: int, y: int, stream: int) -> None:
        """Queue all kernels on ``stream``, which does not capture; the first reads x, the last writes y.

        Raises:
            LaunchError: the driver refuses.
        """
        with self._lock:
            if self._bound != (x, y):
                for node in self._ends:
                    _check(node.bind(self._executable, x, y))
                self._bound = x, y
            status = self._launch(self._executable, stream)
        if status:
            _check(status)


def _capture(record: Callable[[int, int, int], None]) -> int:
    import cupy

    stream, graph = cupy.cuda.Stream(non_blocking=True), ctypes.c_void_p()
    _check(driver_function("cuStreamBeginCapture_v2", 2)(stream.ptr, _THREAD_LOCAL))
    try:
        record(_X, _Y, stream.ptr)
    finally:
        status = driver_function("cuStreamEndCapture", 2)(stream.ptr, ctypes.byref(graph))
    _check(status)
    assert graph.value is not None
    return graph.value


def _nodes(graph: int) -> list[_Node]:
    count = ctypes.c_size_t()
    get_nodes = driver_function("cuGraphGetNodes", 3)
    _check(get_nodes(graph, None, ctypes.byref(count)))
    handles = (ctypes.c_uint64 * count.value)()
    _check(get_nodes(graph, handles, ctypes.byref(count)))
    return [_node(handle) for handle in handles]


def _node(handle: int) -> _Node:
    launch = _NodeParameters()
    _check(driver_function("cuGraphKernelNodeGetParams_v2", 2)(handle, ctypes.byref(launch)))
    return _Node(handle, launch)


def _destroy(executable: int, graph: int) -> None:
    driver_function("cuGraphExecDestroy", 1)(executable)
    driver_function("cuGraphDestroy", 1)(graph)


def _check(status: int) -> None:
    if status:
        from cupy_backends.cuda.api import driver

        raise LaunchError(
            f"the driver refuses a CUDA graph with {driver.CUDADriverError(status)}; check that the stream belongs to "
            "the graph's device and that no earlier kernel failed"
        )
