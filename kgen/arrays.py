"""Arrays of other libraries as kernel arguments: what x and y must look like, and how each library is asked.

Asking is on the path of every launch, so each library has a fast check for the common case and a slow one that finds
the sentence to raise. No array library but NumPy is imported here unless the caller's array comes from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args

import ml_dtypes
import numpy as np

from kgen.errors import ArrayError
from kgen.machine import Problem
from kgen.tensors import Ints, Tensor, View

ALIGNMENT_BYTES = 16
_MISALIGNED = ALIGNMENT_BYTES - 1
_DLPACK_CUDA = (2, 13)  # kDLCUDA and kDLCUDAManaged
Name = Literal["x", "out"]
NAMES: tuple[Name, ...] = get_args(Name)


class KernelProblem(Problem, Protocol):
    """A problem that kernels solve for a batch of images at a time: one tensor in, one out."""

    family: ClassVar[str]

    def __hash__(self) -> int: ...

    @property
    def batch(self) -> int: ...
    @property
    def dtype(self) -> str:
        """In which weights are stored, and y."""
        ...

    @property
    def x(self) -> Tensor: ...
    @property
    def y(self) -> Tensor: ...
    @property
    def sizes(self) -> tuple[float, ...]:
        """Positive numbers by whose ratios problems are near each other."""
        ...


@dataclass(frozen=True)
class Layout:
    """Memory of a tensor, 16-byte aligned, in any of the tensor's views."""

    tensor: Tensor

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes that hold it; bfloat16 may come as its bits in uint16."""
        return ("bfloat16", "uint16") if self.tensor.dtype == "bfloat16" else (self.tensor.dtype,)

    @cached_property
    def by_strides(self) -> Mapping[Ints, Ints]:
        """Shapes by strides; of two views with the same strides, the first."""
        return {view.strides: view.shape for view in reversed(self.tensor.views)}

    def check(self, name: str, dtype: str, shape: Ints, strides: Ints, pointer: int) -> int:
        """Check an array; returns which of the tensor's views it is.

        The stride of a dimension of size 1 is not looked at.

        Raises:
            ArrayError: a rule is broken; the message names it.
        """
        if dtype not in self.dtypes:
            raise ArrayError(f"{name} must have dtype {' or '.join(self.dtypes)}, but got {dtype}; convert it first")
        views = self.tensor.views
        fitting = [view for view in views if view.shape == shape]
        if not fitting:
            shapes = " or ".join(str(view.shape) for view in views)
            raise ArrayError(
                f"{name} must have shape {shapes}, its memory in the order of the first, but got {shape}; reshape it, "
                "or load a block for its shape"
            )
        right = [view for view in fitting if _same_strides(shape, strides, view.strides)]
        if not right:
            raise ArrayError(
                f"{name} must be contiguous in the order {self.tensor.order}, which for shape {shape} means strides "
                f"{fitting[0].strides} in elements, but got {strides}; copy it to such memory first"
            )
        if pointer & _MISALIGNED:
            raise ArrayError(
                f"{name} must start at a multiple of {ALIGNMENT_BYTES} bytes, but its address is {pointer:#x}; "
                "copy it to an array of its own"
            )
        return views.index(right[0])


@dataclass(frozen=True)
class Layouts:
    """Those of a problem's x and y."""

    x: Layout
    out: Layout

    def of(self, name: str) -> Layout:
        layout: Layout = getattr(self, name)
        return layout

    def out_view(self, x_view: int) -> View:
        """The presentation of a new output for an x presented so: alike where y has as many."""
        views = self.out.tensor.views
        return views[x_view] if x_view < len(views) else views[0]

    def check_apart(self, x_pointer: int, y_pointer: int) -> None:
        """Raise ArrayError when y overlaps x: a tile reads its neighbours' pixels, which must still be x's."""
        if -self.out.tensor.bytes < y_pointer - x_pointer < self.x.tensor.bytes:
            raise ArrayError("out must not share memory with x, but they overlap; pass another array or none")


def layouts_of(problem: KernelProblem) -> Layouts:
    return Layouts(Layout(problem.x), Layout(problem.y))


class Adapter(Protocol):
    """How to use the arrays of one library."""

    def pointer(self, array: Any, name: Name) -> int:
        """Device address of an array that fits; ArrayError otherwise."""

    def empty_for(self, x: Any) -> Any:
        """A new output of x's kind and presentation."""

    def stream(self) -> int:
        """The library's current stream on the block's device."""


class TorchAdapter:
    """PyTorch's CUDA tensors, asked through their own attributes: bfloat16 has no CUDA array interface."""

    def __init__(self, torch: Any, layouts: Layouts, ordinal: int) -> None:
        self._torch = torch
        self._layouts = layouts
        self._ordinal = ordinal
        self._dtypes = {name: getattr(torch, layouts.of(name).tensor.dtype) for name in NAMES}
        self._views = {name: layouts.of(name).by_strides for name in NAMES}
        self._alike = layouts.x == layouts.out
        self._stream = torch_stream_getter(torch)

    def pointer(self, array: Any, name: Name) -> int:
        pointer: int = array.data_ptr()
        fits = array.dtype is self._dtypes[name] and self._views[name].get(array.stride()) == array.shape
        if not fits or array.get_device() != self._ordinal or pointer & _MISALIGNED:
            check_device(name, array.get_device() if array.is_cuda else None, self._ordinal)
            self._view(array, name)
        return pointer

    def empty_for(self, x: Any) -> Any:
        if self._alike:
            return self._torch.empty_like(x)
        view = self._layouts.out_view(self._view(x, "x"))
        return self._torch.empty_strided(view.shape, view.strides, dtype=self._dtypes["out"], device=x.device)

    def _view(self, array: Any, name: Name) -> int:
        dtype, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
        return self._layouts.of(name).check(name, dtype, shape, tuple(array.stride()), array.data_ptr())

    def stream(self) -> int:
        return int(self._stream(self._ordinal))


class CupyAdapter:
    """CuPy's arrays."""

    def __init__(self, cupy: Any, layouts: Layouts, ordinal: int) -> None:
        self._cupy = cupy
        self._layouts = layouts
        self._ordinal = ordinal
        self._dtypes = {
            name: frozenset(np.dtype(getattr(ml_dtypes, dtype, dtype)) for dtype in layouts.of(name).dtypes)
            for name in NAMES
        }
        self._views = {name: _in_bytes(layouts.of(name)) for name in NAMES}
        self._current_stream = cupy.cuda.get_current_stream

    def pointer(self, array: Any, name: Name) -> int:
        pointer: int = array.data.ptr
        fits = self._views[name].get(array.strides) == array.shape and array.dtype in self._dtypes[name]
        if not fits or array.data.device_id != self._ordinal or pointer & _MISALIGNED:
            check_device(name, array.data.device_id, self._ordinal)
            self._view(array, name)
        return pointer

    def empty_for(self, x: Any) -> Any:
        view = self._layouts.out_view(self._view(x, "x"))
        tensor = self._layouts.out.tensor
        dtype = x.dtype if self._layouts.x.tensor.dtype == tensor.dtype else tensor.storage
        y = self._cupy.empty(tensor.views[0].shape, dtype=dtype)
        return y if view.turn is None else y.transpose(view.turn)

    def _view(self, array: Any, name: Name) -> int:
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return self._layouts.of(name).check(name, array.dtype.name, array.shape, strides, array.data.ptr)

    def stream(self) -> int:
        return int(self._current_stream(self._ordinal).ptr)


class ForeignAdapter(CupyAdapter):
    """Any other GPU array, through ``__cuda_array_interface__`` or DLPack; new outputs are CuPy arrays."""

    def pointer(self, array: Any, name: Name) -> int:
        return super().pointer(self._array(array, name), name)

    def empty_for(self, x: Any) -> Any:
        return super().empty_for(self._array(x, "x"))

    def _array(self, array: Any, name: str) -> Any:
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


def adapter_of(array: Any, layouts: Layouts, ordinal: int) -> Adapter:
    """The adapter for arrays of this type."""
    import cupy

    torch = loaded_torch()
    if torch is not None and isinstance(array, torch.Tensor):
        return TorchAdapter(torch, layouts, ordinal)
    kind = CupyAdapter if isinstance(array, cupy.ndarray) else ForeignAdapter
    return kind(cupy, layouts, ordinal)


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


def _in_bytes(layout: Layout) -> dict[Ints, Ints]:
    """Shapes by strides in bytes."""
    size = layout.tensor.storage.itemsize
    return {tuple(size * stride for stride in strides): shape for strides, shape in layout.by_strides.items()}


def _same_strides(shape: Ints, strides: Ints, wanted: Ints) -> bool:
    return all(size == 1 or have == want for size, have, want in zip(shape, strides, wanted, strict=True))
