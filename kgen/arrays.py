"""Arrays of other libraries as kernel arguments: what x and y must look like, and how each library is asked.

Asking is on the path of every launch, so each library has a fast check for the common case and a slow one that finds
the sentence to raise. No array library but NumPy is imported here unless the caller's array comes from it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import ml_dtypes
import numpy as np

from kgen.errors import ArrayError
from kgen.machine import Problem

ALIGNMENT_BYTES = 16
_MISALIGNED = ALIGNMENT_BYTES - 1
_DLPACK_CUDA = (2, 13)  # kDLCUDA and kDLCUDAManaged
Ints = tuple[int, ...]


class BlockProblem(Problem, Protocol):
    """A problem whose x and y are images of one shape: (batch, height, width, channels)."""

    family: ClassVar[str]

    def __hash__(self) -> int: ...

    @property
    def batch(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def expansion(self) -> float: ...
    @property
    def dtype(self) -> str: ...
    @property
    def pixels(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...


@dataclass(frozen=True)
class Layout:
    """Memory of x and of y: (batch, height, width, channels) in C order, 16-bit elements, 16-byte aligned.

    The same memory may be presented with shape (batch, channels, height, width), PyTorch's ``channels_last``.
    Strides count elements.
    """

    problem: BlockProblem

    @cached_property
    def nhwc_shape(self) -> Ints:
        return self.problem.shape

    @cached_property
    def nhwc_strides(self) -> Ints:
        _, height, width, channels = self.problem.shape
        return (height * width * channels, width * channels, channels, 1)

    @cached_property
    def nchw_shape(self) -> Ints:
        return _nchw(self.nhwc_shape)

    @cached_property
    def nchw_strides(self) -> Ints:
        return _nchw(self.nhwc_strides)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes that hold x and y; bfloat16 may come as its bits in uint16."""
        return ("bfloat16", "uint16") if self.problem.dtype == "bfloat16" else (self.problem.dtype,)

    @property
    def bytes(self) -> int:
        """Size of x, and of y."""
        return 2 * self.problem.pixels * self.problem.channels

    def check(self, name: str, dtype: str, shape: Ints, strides: Ints, pointer: int) -> bool:
        """Check an array; returns whether it is presented as (batch, channels, height, width).

        The stride of a dimension of size 1 is not looked at.

        Raises:
            ArrayError: a rule is broken; the message names it.
        """
        if dtype not in self.dtypes:
            raise ArrayError(f"{name} must have dtype {' or '.join(self.dtypes)}, but got {dtype}; convert it first")
        if shape not in (self.nhwc_shape, self.nchw_shape):
            raise ArrayError(
                f"{name} must have shape (batch, height, width, channels) = {self.nhwc_shape}, or {self.nchw_shape} in "
                f"channels_last memory, but got {shape}; reshape it, or load a block for its shape"
            )
        nhwc = shape == self.nhwc_shape and _same_strides(shape, strides, self.nhwc_strides)
        nchw = shape == self.nchw_shape and _same_strides(shape, strides, self.nchw_strides)
        if not (nhwc or nchw):
            wanted = self.nhwc_strides if shape == self.nhwc_shape else self.nchw_strides
            raise ArrayError(
                f"{name} must be contiguous with channels innermost, which for shape {shape} means strides {wanted} in "
                f"elements, but got {strides}; copy it to contiguous (or channels_last) memory first"
            )
        if pointer & _MISALIGNED:
            raise ArrayError(
                f"{name} must start at a multiple of {ALIGNMENT_BYTES} bytes, but its address is {pointer:#x}; "
                "copy it to an array of its own"
            )
        return not nhwc

    def check_apart(self, x_pointer: int, y_pointer: int) -> None:
        """Raise ArrayError when y overlaps x: a tile reads its neighbours' pixels, which must still be x's."""
        if abs(x_pointer - y_pointer) < self.bytes:
            raise ArrayError("out must not share memory with x, but they overlap; pass another array or none")


class Adapter(Protocol):
    """How to use the arrays of one library."""

    def pointer(self, array: Any, name: str) -> int:
        """Device address of an array that fits; ArrayError otherwise."""

    def empty_like(self, x: Any) -> Any:
        """A new array of x's kind and presentation."""

    def stream(self) -> int:
        """The library's current stream on the block's device."""


class TorchAdapter:
    """PyTorch's CUDA tensors, asked through their own attributes: bfloat16 has no CUDA array interface."""

    def __init__(self, torch: Any, layout: Layout, ordinal: int) -> None:
        self._layout = layout
        self._ordinal = ordinal
        self._dtype = getattr(torch, layout.problem.dtype)
        self._views = {layout.nchw_strides: layout.nchw_shape, layout.nhwc_strides: layout.nhwc_shape}
        self.empty_like = torch.empty_like
        self._stream = torch_stream_getter(torch)

    def pointer(self, array: Any, name: str) -> int:
        pointer: int = array.data_ptr()
        fits = array.dtype is self._dtype and self._views.get(array.stride()) == array.shape
        if not fits or array.get_device() != self._ordinal or pointer & _MISALIGNED:
            check_device(name, array.get_device() if array.is_cuda else None, self._ordinal)
            dtype = str(array.dtype).removeprefix("torch.")
            self._layout.check(name, dtype, tuple(array.shape), tuple(array.stride()), pointer)
        return pointer

    def stream(self) -> int:
        return int(self._stream(self._ordinal))


class CupyAdapter:
    """CuPy's arrays."""

    def __init__(self, cupy: Any, layout: Layout, ordinal: int) -> None:
        self._cupy = cupy
        self._layout = layout
        self._ordinal = ordinal
        views = {layout.nchw_strides: layout.nchw_shape, layout.nhwc_strides: layout.nhwc_shape}
        self._views = {tuple(2 * stride for stride in strides): shape for strides, shape in views.items()}
        self._dtypes = frozenset(np.dtype(getattr(ml_dtypes, name, name)) for name in layout.dtypes)
        self._current_stream = cupy.cuda.get_current_stream

    def pointer(self, array: Any, name: str) -> int:
        pointer: int = array.data.ptr
        fits = self._views.get(array.strides) == array.shape and array.dtype in self._dtypes
        if not fits or array.data.device_id != self._ordinal or pointer & _MISALIGNED:
            check_device(name, array.data.device_id, self._ordinal)
            strides = tuple(stride // array.itemsize for stride in array.strides)
            self._layout.check(name, array.dtype.name, array.shape, strides, pointer)
        return pointer

    def empty_like(self, x: Any) -> Any:
        y = self._cupy.empty(self._layout.nhwc_shape, dtype=x.dtype)
        return y if x.strides[-1] == x.itemsize or x.shape != self._layout.nchw_shape else y.transpose(0, 3, 1, 2)

    def stream(self) -> int:
        return int(self._current_stream(self._ordinal).ptr)


class ForeignAdapter(CupyAdapter):
    """Any other GPU array, through ``__cuda_array_interface__`` or DLPack; new outputs are CuPy arrays."""

    def pointer(self, array: Any, name: str) -> int:
        return super().pointer(self._view(array, name), name)

    def empty_like(self, x: Any) -> Any:
        return super().empty_like(self._view(x, "x"))

    def _view(self, array: Any, name: str) -> Any:
        if hasattr(array, "__cuda_array_interface__"):
            return self._cupy.asarray(array)
        if not hasattr(array, "__dlpack_device__"):
            raise ArrayError(
                f"{name} must be a GPU array that offers __cuda_array_interface__ or DLPack, but got "
                f"{type(array).__name__}; convert it, for example with cupy.asarray"
            )
        kind, device_id = array.__dlpack_device__()
        check_device(name, device_id if kind in _DLPACK_CUDA else None, self._ordinal)
        return self._cupy.from_dlpack(array)


def adapter_of(array: Any, layout: Layout, ordinal: int) -> Adapter:
    """The adapter for arrays of this type."""
    import cupy

    torch = loaded_torch()
    if torch is not None and isinstance(array, torch.Tensor):
        return TorchAdapter(torch, layout, ordinal)
    kind = CupyAdapter if isinstance(array, cupy.ndarray) else ForeignAdapter
    return kind(cupy, layout, ordinal)


def loaded_torch() -> Any:
    """PyTorch if the caller has imported it, else None: kgen never imports it, and without it no tensor can come."""
    return sys.modules.get("torch")


def torch_stream_getter(torch: Any) -> Any:
    """A function from a device's ordinal to the handle of PyTorch's current stream there.

    The raw getter costs a tenth of a microsecond, building a Stream object several; older versions lack it.
    """
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return raw or (lambda ordinal: torch.cuda.current_stream(ordinal).cuda_stream)


def check_device(name: str, ordinal: int | None, wanted: int) -> None:
    """Raise ArrayError unless an array is on the block's GPU; ``ordinal`` is None for host memory."""
    if ordinal != wanted:
        place = "in host memory" if ordinal is None else f"on cuda:{ordinal}"
        raise ArrayError(f"{name} must be on the block's device cuda:{wanted}, but it is {place}; copy it there first")


def _nchw(values: Ints) -> Ints:
    batch, height, width, channels = values
    return (batch, channels, height, width)


def _same_strides(shape: Ints, strides: Ints, wanted: Ints) -> bool:
    return all(size == 1 or have == want for size, have, want in zip(shape, strides, wanted, strict=True))
