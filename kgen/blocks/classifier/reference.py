"""The classifier in NumPy: the float64 truth, the layer-by-layer error yardstick, and a float32 path to run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.weights import FoldedWeights, check_folded
from kgen.blocks.layers import STORAGE_DTYPES, Array
from kgen.errors import ArrayError


def reference(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits (n, classes) in float64 with the rounded weights, of ``x`` (n, height, width, channels).

    ``x`` may be float64 too, so that the truth of a layer is the next one's input.

    Raises:
        ArrayError: ``x`` has another shape or dtype.
        WeightsError: ``folded`` belongs to another problem.
    """
    _check_input(problem, x, np.dtype(np.float64))
    return _forward(problem, folded, x, np.dtype(np.float64), lambda values: values)


def layered(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits in the storage dtype, with means and logits each rounded to it; sums are float64."""
    _check_input(problem, x)
    storage = STORAGE_DTYPES[problem.dtype]
    result = _forward(problem, folded, x, np.dtype(np.float64), lambda v: v.astype(storage).astype(np.float64))
    return result.astype(storage)


def float32_forward(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits in float32, rounded once at the end to the storage dtype."""
    _check_input(problem, x)
    with np.errstate(over="ignore"):
        result = _forward(problem, folded, x, np.dtype(np.float32), lambda values: values)
        return result.astype(STORAGE_DTYPES[problem.dtype])


def _forward(
    problem: Classifier, folded: FoldedWeights, x: Array, dtype: np.dtype[Any], rounding: Callable[[Array], Array]
) -> Array:
    check_folded(problem, folded)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        means = rounding(x.astype(dtype).mean(axis=(1, 2)))
        return rounding(means @ folded.linear.astype(dtype).T + folded.linear_bias.astype(dtype))


def _check_input(problem: Classifier, x: Array, *also: np.dtype[Any]) -> None:
    """Raise ArrayError unless ``x`` holds images of the problem's shape in its dtype, or in one of ``also``."""
    if x.shape[1:] != problem.x.shape[1:] or x.dtype not in (problem.x.storage, *also):
        raise ArrayError(
            f"x must be {problem.dtype} of shape (n, {problem.height}, {problem.width}, {problem.channels}) for "
            f"{problem}, but got {x.dtype.name} of shape {x.shape}; convert it first"
        )
