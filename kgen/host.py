"""A block on a machine without a GPU: NumPy arrays and PyTorch's CPU tensors under the same rules as on one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from kgen.arrays import KernelProblem, Name, layouts_of, loaded_torch
from kgen.blocks import family
from kgen.errors import ArrayError

Array = np.ndarray[Any, Any]


class HostForward:
    """The block in float32 NumPy. Shape, dtype, layout and alignment are checked as on a GPU."""

    def __init__(self, problem: KernelProblem, folded: Any) -> None:
        self._problem = problem
        self._layouts = layouts_of(problem)
        self._folded = folded
        self._forward = family(problem.family).float32_forward

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Compute into ``out``, or into a new array of x's kind.

        Raises:
            ArrayError: x or out breaks a rule.
        """
        torch = loaded_torch()
        source, view = self._in_order(x, "x")
        if out is None:
            out = self._new(x, view)
        elif not isinstance(out, np.ndarray if torch is None else (np.ndarray, torch.Tensor)):
            raise ArrayError(f"out must be a NumPy array or a PyTorch tensor, but got {type(out).__name__}; convert it")
        target, _ = self._in_order(out, "out")
        self._layouts.check_apart(source.ctypes.data, target.ctypes.data)
        target[...] = self._forward(self._problem, self._folded, source)
        return out

    def _new(self, x: Any, x_view: int) -> Any:
        torch, view, tensor = loaded_torch(), self._layouts.out_view(x_view), self._problem.y
        if torch is not None and isinstance(x, torch.Tensor):
            return torch.empty_strided(view.shape, view.strides, dtype=getattr(torch, tensor.dtype))
        y = np.empty(
            tensor.views[0].shape, np.asarray(x).dtype if tensor.dtype == self._problem.x.dtype else tensor.storage
        )
        return y if view.turn is None else y.transpose(view.turn)

    def _in_order(self, array: Any, name: Name) -> tuple[Array, int]:
        """The array in the order of its memory and in the tensor's dtype, and which of the tensor's views it was."""
        tensor, given = self._layouts.of(name).tensor, numpy_view(array, name)
        strides = tuple(stride // given.itemsize for stride in given.strides)
        view = self._layouts.of(name).check(name, given.dtype.name, given.shape, strides, given.ctypes.data)
        turn = tensor.views[view].turn
        return (given if turn is None else given.transpose(np.argsort(turn))).view(tensor.storage), view


def numpy_view(array: Any, name: str) -> Array:
    """The memory of a NumPy array or a PyTorch CPU tensor as a NumPy array; ArrayError when it is neither."""
    torch = loaded_torch()
    if torch is not None and isinstance(array, torch.Tensor):
        tensor = array.detach()
        if tensor.dtype is torch.bfloat16:  # NumPy itself has no such dtype
            return np.asarray(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
        return np.asarray(tensor.numpy())
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as error:
        raise ArrayError(f"{name} must be an array, but got {type(array).__name__} ({error}); convert it") from None
