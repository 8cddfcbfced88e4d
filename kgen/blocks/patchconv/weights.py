"""Weights of a patchconv: BatchNorm and normalisation folded in, rounded to the storage dtype, and packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kgen.blocks.layers import STORAGE_DTYPES, Array, Conv, folded_conv, numbers, rounded
from kgen.blocks.packing import bits, pack_inner_outputs
from kgen.blocks.patchconv.problem import PatchConv
from kgen.errors import WeightsError

_WHITE = 255.0
_MEAN, _STD = 0.45, 0.225


@dataclass(frozen=True, eq=False)
class PatchConvWeights:
    """Weights of one patch convolution.

    ``conv.weight`` is (outputs, channels, patch, patch) as in ``torch.nn.Conv2d(channels, outputs, patch, patch)``;
    with 1x1 patches it may be (outputs, channels). The convolution is of (x - mean) / std, where x is from 0 to 1 if
    the pixels are uint8; ``mean`` and ``std`` have shape (channels,).
    """

    conv: Conv
    mean: npt.ArrayLike | None = None
    std: npt.ArrayLike | None = None

    @classmethod
    def random(cls, problem: PatchConv, seed: int = 0) -> PatchConvWeights:
        """Seeded float32 weights with bias and BatchNorm, scaled so that y is of order 1."""
        conv = Conv.random(np.random.default_rng(seed), _shape(problem))
        if problem.pixels != "uint8":
            return cls(conv)
        return cls(conv, np.full(problem.channels, _MEAN), np.full(problem.channels, _STD))


@dataclass(frozen=True, eq=False)
class FoldedWeights:
    """Weights in the precision in which they are stored: the matrix (outputs, inputs in x's order), and the bias."""

    conv: Array
    conv_bias: Array


def fold(problem: PatchConv, weights: PatchConvWeights) -> FoldedWeights:
    """Fold BatchNorm and normalisation in float64, then round: the matrix to the problem's dtype, the bias to float32.

    Raises:
        WeightsError: a shape, a value or a dtype is wrong, or a folded value overflows.
    """
    if not isinstance(weights, PatchConvWeights):
        raise WeightsError(f"weights must be a PatchConvWeights, but got {type(weights).__name__}; build one of a Conv")
    shape = _shape(problem)
    weight, bias = folded_conv("conv", weights.conv, (shape,) if problem.patch > 1 else (shape, shape[:2]), problem)
    mean, std = _normalisation(problem, weights)
    with np.errstate(over="ignore", invalid="ignore"):  # rounded() reports what overflows
        weight = weight / std[:, None, None]
        bias = bias - np.einsum("ncyx,c->n", weight, mean)
    weight = weight / (_WHITE if problem.pixels == "uint8" else 1.0)
    ordered = weight if problem.order == "nchw" else weight.transpose(0, 2, 3, 1)
    matrix = rounded("conv.weight", ordered.reshape(problem.outputs, -1), STORAGE_DTYPES[problem.dtype])
    return FoldedWeights(matrix, rounded("conv.bias", bias, np.dtype(np.float32)))


def pack(problem: PatchConv, folded: FoldedWeights) -> Array:
    """The bytes that the kernel streams, as a uint8 vector: the matrix as core matrices, 8 outputs x 8 inputs in 128
    contiguous bytes, in the order [inputs / 16][outputs / 8][2], its inputs filled up with zeros to a multiple of 16;
    then the float32 bias. Little endian.

    Raises:
        WeightsError: ``folded`` is not of this problem's shapes and dtype.
    """
    check_folded(problem, folded)
    padded = np.zeros((problem.outputs, padded_inputs(problem)), np.uint16)
    padded[:, : problem.inputs] = bits(folded.conv)
    parts = (pack_inner_outputs(padded), folded.conv_bias.astype("<f4"))
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def padded_inputs(problem: PatchConv) -> int:
    """Inputs filled up to a matmul's steps of 16."""
    return -(-problem.inputs // 16) * 16


def check_folded(problem: PatchConv, folded: FoldedWeights) -> None:
    """Raise WeightsError unless ``folded`` has this problem's shapes and dtypes."""
    wanted = {
        "conv": ((problem.outputs, problem.inputs), STORAGE_DTYPES[problem.dtype]),
        "conv_bias": ((problem.outputs,), np.dtype(np.float32)),
    }
    for field, (shape, dtype) in wanted.items():
        array = getattr(folded, field)
        if array.shape != shape or array.dtype != dtype:
            raise WeightsError(
                f"folded {field} must be {dtype.name} of shape {shape} for {problem}, but got {array.dtype.name} of "
                f"shape {array.shape}; fold the weights for this problem"
            )


def _normalisation(problem: PatchConv, weights: PatchConvWeights) -> tuple[Array, Array]:
    channels = (problem.channels,)
    mean = np.zeros(channels) if weights.mean is None else numbers("mean", weights.mean, channels)
    std = np.ones(channels) if weights.std is None else numbers("std", weights.std, channels)
    if (std <= 0).any():
        raise WeightsError(f"std must be > 0, but the least is {std.min():g}; pass standard deviations")
    return mean, std


def _shape(problem: PatchConv) -> tuple[int, int, int, int]:
    return (problem.outputs, problem.channels, problem.patch, problem.patch)
