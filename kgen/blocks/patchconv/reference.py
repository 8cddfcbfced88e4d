"""The patchconv in NumPy: the float64 truth, the layer-by-layer error yardstick, and a float32 path to run."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kgen.blocks.activations import activate
from kgen.blocks.layers import Array
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.patchconv.weights import FoldedWeights, check_folded
from kgen.blocks.precisions import FLOAT64, Rounding, check_images, exact, in_float32, layer_by_layer


def reference(problem: PatchConv, folded: FoldedWeights, x: Array) -> Array:
    """The layer in float64 with the rounded weights; ``x`` holds any number of images, in the problem's order.

    ``x`` may be float64 too, so that the truth of a layer is the next one's input.

    Raises:
        ArrayError: ``x`` has another shape or dtype.
        WeightsError: ``folded`` belongs to another problem.
    """
    check_images(problem, x, FLOAT64)
    return exact(partial(_forward, problem, folded, x))


def layered(problem: PatchConv, folded: FoldedWeights, x: Array) -> Array:
    """The layer in the storage dtype: convolution, activation and the sum with x are each rounded to it.

    Sums inside the convolution are float64. The error against :func:`reference` is the yardstick for a kernel's.
    """
    check_images(problem, x)
    return layer_by_layer(partial(_forward, problem, folded, x), problem.dtype)


def float32_forward(problem: PatchConv, folded: FoldedWeights, x: Array) -> Array:
    """The layer in float32, rounded once at the end to the storage dtype."""
    check_images(problem, x)
    return in_float32(partial(_forward, problem, folded, x), problem.dtype)


def _forward(problem: PatchConv, folded: FoldedWeights, x: Array, dtype: np.dtype[Any], rounding: Rounding) -> Array:
    check_folded(problem, folded)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = _patches(problem, x).astype(dtype) @ folded.conv.astype(dtype).T + folded.conv_bias.astype(dtype)
        y = rounding(activate(problem.activation, rounding(product)))
        return rounding(y + x.astype(dtype)) if problem.residual else y


def _patches(problem: PatchConv, x: Array) -> Array:
    """(n, height, width, inputs) of y's height and width, each patch's numbers in the order in which they lie in x."""
    _, high, wide, _ = problem.y.shape
    size, channels = problem.patch, problem.channels
    if problem.order == "nchw":
        cut = x[:, :, : high * size, : wide * size].reshape(-1, channels, high, size, wide, size)
        patches: Array = cut.transpose(0, 2, 4, 1, 3, 5)
        return patches.reshape(-1, high, wide, problem.inputs)
    cut = x[:, : high * size, : wide * size].reshape(-1, high, size, wide, size, channels)
    patches = cut.transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(-1, high, wide, problem.inputs)
