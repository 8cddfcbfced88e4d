"""The precisions in which a reference is computed with NumPy: float64, rounded as layer by layer, and float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kgen.arrays import KernelProblem
from kgen.blocks.layers import STORAGE_DTYPES, Array
from kgen.errors import ArrayError

Rounding = Callable[[Array], Array]
"""What becomes of an intermediate that a framework without fusion would store."""
Forward = Callable[[np.dtype[Any], Rounding], Array]
"""A block's output, computed in a dtype."""

FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


def unrounded(values: Array) -> Array:
    """The values themselves."""
    return values


def rounded_to(dtype: str) -> Rounding:
    """Float64 values rounded to a storage dtype, and back."""
    return lambda values: values.astype(STORAGE_DTYPES[dtype]).astype(FLOAT64)


def exact(forward: Forward) -> Array:
    """The truth, in float64."""
    return forward(FLOAT64, unrounded)


def layer_by_layer(forward: Forward, dtype: str) -> Array:
    """Each layer's output rounded to a storage dtype, of float64 sums: the yardstick for a kernel's error."""
    return forward(FLOAT64, rounded_to(dtype)).astype(STORAGE_DTYPES[dtype])


def in_float32(forward: Forward, dtype: str) -> Array:
    """Computed in float32, and rounded once at the end to a storage dtype."""
    with np.errstate(over="ignore"):
        return forward(FLOAT32, unrounded).astype(STORAGE_DTYPES[dtype])


def check_images(problem: KernelProblem, x: Array, *also: np.dtype[Any]) -> None:
    """Raise ArrayError unless ``x`` holds any number of the problem's images in its dtype, or in one of ``also``."""
    shape = problem.x.views[0].shape[1:]
    if x.shape[1:] != shape or x.dtype not in (problem.x.storage, *also):
        raise ArrayError(
            f"x must be {problem.x.dtype} of shape (n, {', '.join(map(str, shape))}) for {problem}, but got "
            f"{x.dtype.name} of shape {x.shape}; convert it first"
        )
