"""The convfirst block in NumPy: the float64 truth, the layer-by-layer error yardstick, and a float32 path to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kgen.blocks.activations import activate
from kgen.blocks.convfirst.float8 import quantise, to_e4m3
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.blocks.convfirst.weights import FoldedWeights, check_folded
from kgen.blocks.layers import Array
from kgen.blocks.precisions import FLOAT64, Rounding, check_images, in_float32, layer_by_layer, unrounded

_CHUNK_VALUES = 1 << 22  # values in the largest temporary, so that big batches stay within memory and near the cache


@dataclass(frozen=True, eq=False)
class _Arithmetic:
    """How a forward pass computes: in ``dtype``, with these matrices (outputs, inputs).

    ``z`` and ``hidden`` round what the matmuls take, ``rest`` every other intermediate.
    """

    dtype: np.dtype[Any]
    expand: Array
    project: Array
    z: Rounding
    hidden: Rounding
    rest: Rounding


def reference(problem: ConvFirst, folded: FoldedWeights, x: Array) -> Array:
    """The block in float64 with the rounded weights; ``x`` is (n, height, width, C) in the problem's dtype, any n.

    ``x`` may be float64 too, so that the truth of a layer is the next one's input. Nothing is quantised, whatever the
    problem's matmuls take: the error of float8 is measured against this.

    Raises:
        ArrayError: ``x`` has another shape or dtype.
        WeightsError: ``folded`` belongs to another problem.
    """
    check_images(problem, x, FLOAT64)
    return _forward(problem, folded, x, _plain(folded, FLOAT64, unrounded))


def layered(problem: ConvFirst, folded: FoldedWeights, x: Array) -> Array:
    """The block layer by layer, in the storage dtype: what a framework without fusion would return.

    Convolution, expand before and after the activation, project and the residual sum are each rounded to the storage
    dtype; sums inside a layer are float64. With float8 matmuls what these take is rounded to e4m3 instead, weights,
    z and h. The error against :func:`reference` is the yardstick for a kernel's.
    Shapes and errors are those of :func:`reference`.
    """
    check_images(problem, x)
    return layer_by_layer(partial(_in_precision, problem, folded, x), problem.dtype)


def float32_forward(problem: ConvFirst, folded: FoldedWeights, x: Array) -> Array:
    """The block in float32, rounded once at the end to the storage dtype; shapes and errors as :func:`reference`.

    Float8 matmuls take the same e4m3 here as on a GPU.
    """
    check_images(problem, x)
    return in_float32(partial(_in_precision, problem, folded, x), problem.dtype)


def _in_precision(
    problem: ConvFirst, folded: FoldedWeights, x: Array, dtype: np.dtype[Any], rounding: Rounding
) -> Array:
    return _forward(problem, folded, x, _arithmetic(problem, folded, dtype, rounding))


def _plain(folded: FoldedWeights, dtype: np.dtype[Any], rounding: Rounding) -> _Arithmetic:
    return _Arithmetic(dtype, folded.expand, folded.project, rounding, rounding, rounding)


def _arithmetic(problem: ConvFirst, folded: FoldedWeights, dtype: np.dtype[Any], rounding: Rounding) -> _Arithmetic:
    """That of the problem's matmuls, with ``rounding`` of all that is not e4m3."""
    check_folded(problem, folded)
    if problem.matmul == "storage":
        return _plain(folded, dtype, rounding)
    weights = quantise(folded)
    expand = weights.expand.astype(np.float64) * weights.expand_scale[:, None] * weights.z_scale
    project = weights.project.astype(np.float64) * weights.project_scale[:, None] * weights.hidden_scale
    z, hidden = (partial(_through_e4m3, scale=scale) for scale in (weights.z_scale, weights.hidden_scale))
    return _Arithmetic(dtype, expand, project, z, hidden, rounding)


def _through_e4m3(values: Array, scale: Array) -> Array:
    """Rounded to e4m3 at the scale of the last axis, a power of two, and back."""
    return to_e4m3(values * scale).astype(values.dtype) / scale


def _forward(problem: ConvFirst, folded: FoldedWeights, x: Array, how: _Arithmetic) -> Array:
    """The block, in chunks of images and of pixels."""
    check_folded(problem, folded)
    dtype = how.dtype
    taps = folded.conv.astype(dtype).reshape(-1, GROUP_WIDTH, GROUP_WIDTH * KERNEL_SIZE**2).transpose(0, 2, 1)
    expand, project = how.expand.astype(dtype).T, how.project.astype(dtype).T
    biases = [bias.astype(dtype) for bias in (folded.conv_bias, folded.expand_bias, folded.project_bias)]
    images = max(1, _CHUNK_VALUES // (problem.height * problem.width * problem.channels * KERNEL_SIZE**2))
    pixels = max(1, _CHUNK_VALUES // problem.hidden)
    y = np.empty(x.shape, dtype)
    # A large value may overflow the storage dtype, as it does on a GPU; exp(-x) may, and x / inf is the right limit.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for first in range(0, len(x), images):
            source = x[first : first + images].astype(dtype)
            z = how.z(_grouped_conv(source, taps) + biases[0]).reshape(-1, problem.channels)
            source, out = source.reshape(z.shape), y[first : first + images].reshape(z.shape)
            for rows in (slice(row, row + pixels) for row in range(0, len(z), pixels)):
                hidden = how.hidden(activate(problem.activation, how.rest(z[rows] @ expand + biases[1])))
                block = how.rest(hidden @ project + biases[2])
                out[rows] = how.rest(block + source[rows]) if problem.residual else block
    return y


def _grouped_conv(x: Array, taps: Array) -> Array:
    """3x3 grouped convolution with zero padding 1: x (n, h, w, C), taps (groups, 8 inputs x 9 taps, 8 outputs)."""
    n, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (KERNEL_SIZE, KERNEL_SIZE), axis=(1, 2))
    # [n, h, w, group, input, kh, kw] to [group, pixel, input x tap], one matmul a group
    grouped = windows.reshape(n * height * width, channels // GROUP_WIDTH, -1).transpose(1, 0, 2)
    return np.ascontiguousarray((grouped @ taps).transpose(1, 0, 2)).reshape(x.shape)
