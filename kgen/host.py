"""A block on a machine without a GPU: NumPy arrays and PyTorch's CPU tensors under the same rules as on one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from kgen.arrays import Layout, loaded_torch
from kgen.blocks import family
from kgen.errors import ArrayError

Array = np.ndarray[Any, Any]


class HostForward:
    """The block in float32 NumPy. Shape, dtype, layout and alignment are checked as on a GPU."""

    def __init__(self, layout: Layout, folded: Any) -> None:
        self._layout = layout
        self._folded = folded
        self._forward = family(layout.problem.family).float32_forward

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Compute into ``out``, or into a new array of x's kind.

        Raises:
            ArrayError: x or out breaks a rule.
        """
        torch = loaded_torch()
        is_tensor = torch is not None and isinstance(x, torch.Tensor)
        source = self._nhwc(x, "x")
        if out is None:
            out = torch.empty_like(x) if is_tensor else np.empty_like(np.asarray(x))
        elif not isinstance(out, np.ndarray if torch is None else (np.ndarray, torch.Tensor)):
            raise ArrayError(f"out must be a NumPy array or a PyTorch tensor, but got {type(out).__name__}; convert it")
        target = self._nhwc(out, "out")
        self._layout.check_apart(source.ctypes.data, target.ctypes.data)
        target[...] = self._forward(self._layout.problem, self._folded, source)
        return out

    def _nhwc(self, array: Any, name: str) -> Array:
        """A view of the array as (batch, height, width, channels) in the problem's dtype."""
        view = _numpy_view(array, name)
        strides = tuple(stride // view.itemsize for stride in view.strides)
        presented_nchw = self._layout.check(name, view.dtype.name, view.shape, strides, view.ctypes.data)
        if self._layout.problem.dtype == "bfloat16":
            view = view.view(ml_dtypes.bfloat16)
        return view.transpose(0, 2, 3, 1) if presented_nchw else view


def _numpy_view(array: Any, name: str) -> Array:
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
