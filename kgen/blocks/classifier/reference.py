"""The classifier in NumPy: the float64 truth, the layer-by-layer error yardstick, and a float32 path to run."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.weights import FoldedWeights, check_folded
from kgen.blocks.layers import Array
from kgen.blocks.precisions import FLOAT64, Rounding, check_images, exact, in_float32, layer_by_layer


def reference(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits (n, classes) in float64 with the rounded weights, of ``x`` (n, height, width, channels).

    ``x`` may be float64 too, so that the truth of a layer is the next one's input.

    Raises:
        ArrayError: ``x`` has another shape or dtype.
        WeightsError: ``folded`` belongs to another problem.
    """
    check_images(problem, x, FLOAT64)
    return exact(partial(_forward, problem, folded, x))


def layered(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits in the storage dtype, with means and logits each rounded to it; sums are float64."""
    check_images(problem, x)
    return layer_by_layer(partial(_forward, problem, folded, x), problem.dtype)


def float32_forward(problem: Classifier, folded: FoldedWeights, x: Array) -> Array:
    """Logits in float32, rounded once at the end to the storage dtype."""
    check_images(problem, x)
    return in_float32(partial(_forward, problem, folded, x), problem.dtype)


def _forward(problem: Classifier, folded: FoldedWeights, x: Array, dtype: np.dtype[Any], rounding: Rounding) -> Array:
    check_folded(problem, folded)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        means = rounding(x.astype(dtype).mean(axis=(1, 2)))
        return rounding(means @ folded.linear.astype(dtype).T + folded.linear_bias.astype(dtype))
