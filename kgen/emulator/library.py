"""A rendered source compiled for the CPU: its kernels, called on NumPy arrays."""

from __future__ import annotations

import _ctypes
import ctypes
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kgen.errors import ArrayError, EmulatorError

if TYPE_CHECKING:
    from kgen.machine import Program

Completion = Literal["late", "random"]
Array = NDArray[Any]

MAX_THREADS = 1024
MAX_CLUSTER = 16
ALIGNMENT_BYTES = 16
TIME_LIMIT_S = 600.0
_MESSAGE_BYTES = 2048
_POISON = 0xFF


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("writable", ctypes.c_int32),
    )


class _Launch(ctypes.Structure):
    """Mirrors ``emulator::Launch`` in include/runtime.h."""

    _fields_ = (
        ("symbol", ctypes.c_char_p),
        ("kernel", ctypes.c_void_p),
        ("buffers", _Buffer * 4),
        ("grid", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("cluster", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint64),
        ("batch", ctypes.c_int32),
        ("late", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("time_limit_s", ctypes.c_double),
    )


class HostLibrary:
    """A source built by :func:`kgen.emulator.build`; one launch runs at a time, others wait for it.

    Raises:
        OSError: ``path`` is not a library that this machine can load.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        try:
            self._launch = self._library.kgen_emulator_launch
        except AttributeError as error:
            raise OSError(f"{path} is not an emulated kernel") from error
        # A search builds thousands; the handle is counted by the loader, so that equal libraries may share it.
        weakref.finalize(self, _ctypes.dlclose, self._library._handle).atexit = False

    def run(
        self,
        symbol: str,
        *,
        grid: int,
        threads: int,
        shared_bytes: int,
        x: Array,
        weights: Array,
        hidden: Array | None,
        y: Array,
        batch: int,
        cluster: int = 1,
        seed: int = 0,
        completion: Completion = "late",
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """Run one kernel launch, ``NAME(x, weights, hidden, y, batch)``, to its end.

        Args:
            symbol: the kernel's name.
            grid: CTAs. threads: threads of a CTA. shared_bytes: its dynamic shared memory.
            x, weights: C-contiguous, 16-byte aligned arrays of 2-byte and 1-byte elements; read-only to the kernel.
            hidden: workspace, or None for a null pointer. y: written, 2-byte elements.
            cluster: neighbouring CTAs that run together and reach each other's shared memory; it divides ``grid``.
            seed: of the order in which warps run and, with ``completion="random"``, of when copies land.
            completion: asynchronous copies and wgmma land at the wait that needs them ("late") or at random before.
            time_limit_s: a launch that goes on longer is ended, if it still reaches barriers.

        Raises:
            ArrayError: an array breaks its rule.
            EmulatorError: the launch shape is illegal, or the kernel did something illegal.
        """
        _check_launch(grid, threads, cluster, shared_bytes, completion)
        try:
            entry = ctypes.cast(getattr(self._library, symbol), ctypes.c_void_p)
        except AttributeError:
            raise EmulatorError(
                f"the source must define the kernel it is asked for, but has no {symbol}; check the symbol"
            ) from None
        buffers = (
            _buffer("x", x, (1, 2), writable=False),
            _buffer("weights", weights, (1,), writable=False),
            _buffer("hidden", hidden, (), writable=True),
            _buffer("y", y, (2,), writable=True),
        )
        launch = _Launch(
            symbol=symbol.encode(),
            kernel=entry,
            buffers=(_Buffer * 4)(*buffers),
            grid=grid,
            threads=threads,
            cluster=cluster,
            shared_bytes=shared_bytes,
            batch=batch,
            late=completion == "late",
            seed=seed & (2**64 - 1),
            time_limit_s=time_limit_s,
        )
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._launch(ctypes.byref(launch), message, ctypes.c_uint64(_MESSAGE_BYTES)):
            raise EmulatorError(message.value.decode(errors="replace"))

    def launch(
        self,
        program: Program,
        x: Array,
        weights: Array,
        y: Array,
        *,
        batch: int,
        seed: int = 0,
        completion: Completion = "late",
    ) -> None:
        """Run all kernels of ``program`` in order, with a hidden workspace that starts full of NaN.

        Raises:
            ArrayError, EmulatorError: as :meth:`run`.
        """
        hidden = np.full(program.workspace_bytes, _POISON, np.uint8) if program.workspace_bytes else None
        for kernel in program.kernels:
            self.run(
                kernel.symbol,
                grid=kernel.grid,
                threads=kernel.threads,
                shared_bytes=kernel.shared_bytes,
                x=x,
                weights=weights,
                hidden=hidden,
                y=y,
                batch=batch,
                cluster=kernel.cluster,
                seed=seed,
                completion=completion,
            )


def _check_launch(grid: int, threads: int, cluster: int, shared_bytes: int, completion: str) -> None:
    if threads % 32 or not 32 <= threads <= MAX_THREADS:
        raise EmulatorError(
            f"threads must be a multiple of 32 from 32 to {MAX_THREADS}, but got threads={threads}; use whole warps"
        )
    if not 1 <= grid < 2**31:
        raise EmulatorError(f"grid must be from 1 to 2**31 - 1, but got grid={grid}; launch at least one CTA")
    if not 1 <= cluster <= MAX_CLUSTER:
        raise EmulatorError(f"cluster must be from 1 to {MAX_CLUSTER}, but got cluster={cluster}; group fewer CTAs")
    if grid % cluster:
        raise EmulatorError(
            f"cluster must divide grid, but got cluster={cluster} and grid={grid}; launch whole clusters"
        )
    if not 0 <= shared_bytes < 2**20 or shared_bytes % 4:
        raise EmulatorError(
            f"shared_bytes must be a multiple of 4 below 1 MiB, but got shared_bytes={shared_bytes}; round it up"
        )
    if completion not in ("late", "random"):
        raise EmulatorError(f"completion must be 'late' or 'random', but got {completion!r}; choose one of them")


def _buffer(name: str, array: Array | None, sizes: tuple[int, ...], *, writable: bool) -> _Buffer:
    """A kernel's argument, whose elements have one of ``sizes`` in bytes, or any if there are none."""
    if array is None:
        return _Buffer(name=name.encode(), base=None, bytes=0, writable=writable)
    if sizes and array.dtype.itemsize not in sizes:
        wanted = " or ".join(map(str, sizes))
        raise ArrayError(f"{name} must have elements of {wanted} bytes, but has dtype {array.dtype}; convert it first")
    if not array.flags.c_contiguous:
        raise ArrayError(
            f"{name} must be C-contiguous, but has strides {array.strides}; pass np.ascontiguousarray({name})"
        )
    if array.ctypes.data % ALIGNMENT_BYTES:
        raise ArrayError(
            f"{name} must start at a multiple of {ALIGNMENT_BYTES} bytes, but starts at {array.ctypes.data:#x}; copy it"
        )
    if writable and not array.flags.writeable:
        raise ArrayError(f"{name} must be writable, but is read-only; pass a writable array")
    return _Buffer(name=name.encode(), base=array.ctypes.data, bytes=array.nbytes, writable=writable)
