"""Activations: what they cost a kernel, and what they are, in NumPy and any float dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from kgen.blocks.layers import Array

Activation = Literal["silu", "relu", "gelu", "gelu_tanh", "identity"]
Sigmoid = Literal["exp2", "tanh"]

SIGMOIDS: Mapping[str, tuple[Sigmoid, ...]] = {
    "identity": ("exp2",),
    "relu": ("exp2",),
    "silu": ("tanh", "exp2"),
    "gelu_tanh": ("tanh", "exp2"),
    "gelu": ("tanh", "exp2"),
}
"""Ways in which kernels compute an activation; one that has no sigmoid names the first."""
_SPECIAL = {"silu": {"exp2": 2, "tanh": 1}, "gelu_tanh": {"exp2": 2, "tanh": 1}, "gelu": {"exp2": 0, "tanh": 1}}

# W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969), 631-637:
# (numerator, denominator), highest power first, for |x| <= 0.46875, 0.46875 <= |x| <= 4, and |x| >= 4.
# fmt: off
_ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
     8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)
_ERFC_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)
# fmt: on


def special_operations(activation: Activation, sigmoid: Sigmoid, elements: int) -> int:
    """Special-function operations with which a kernel activates ``elements``."""
    return elements * _SPECIAL.get(activation, {}).get(sigmoid, 0)


def erf(x: npt.ArrayLike) -> Array:
    """The error function, to the last digits of float64 (or float32, when ``x`` is); see the table's source."""
    values = np.asarray(x)
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    size = np.minimum(np.abs(values), 10)  # erf(10) is 1 already, and squares of larger numbers may overflow
    result = values.copy()  # NaN stays NaN
    small, middle, large = size <= 0.46875, (size > 0.46875) & (size <= 4), size > 4
    result[small] = values[small] * _ratio(_ERF_SMALL, np.square(values[small]))
    result[middle] = 1 - np.exp(-np.square(size[middle])) * _ratio(_ERFC_MIDDLE, size[middle])
    tail = 1 / np.square(size[large])
    correction = np.pi**-0.5 - tail * _ratio(_ERFC_LARGE, tail)
    result[large] = 1 - np.exp(-np.square(size[large])) / size[large] * correction
    signed: Array = np.copysign(result, values)
    return signed


def _ratio(table: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    """A rational function by Horner's rule, in the dtype of ``x``."""
    numerator, denominator = np.zeros_like(x), np.zeros_like(x)
    for above, below in zip(*table, strict=True):
        numerator = numerator * x + above
        denominator = denominator * x + below
    return numerator / denominator


def activate(activation: Activation, x: Array) -> Array:
    """act(x) in the dtype of x."""
    result: Array
    match activation:
        case "silu":
            result = x / (1 + np.exp(-x))
        case "relu":
            result = np.maximum(x, 0)
        case "gelu":
            result = 0.5 * x * (1 + erf(x * 0.5**0.5))
        case "gelu_tanh":
            result = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
        case "identity":
            result = x
    return result
