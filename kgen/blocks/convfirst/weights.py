"""Weights of a convfirst block: BatchNorm folding, rounding to the storage dtype, and packing for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kgen.blocks.convfirst.float8 import Float8Weights, quantise
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.blocks.layers import STORAGE_DTYPES, Array, BatchNorm, Conv, folded_conv, rounded
from kgen.blocks.packing import (
    WORD,
    bits,
    pack_inner_outputs,
    pack_outer_outputs,
    unpack_inner_outputs,
    unpack_outer_outputs,
)
from kgen.errors import WeightsError

__all__ = ["BatchNorm", "Conv", "ConvFirstWeights", "FoldedWeights", "fold", "pack", "storage_dtype", "unpack"]

TAPS = KERNEL_SIZE * KERNEL_SIZE
_PADDED_TAPS = 10  # two taps fill one 16-deep matmul step, so nine taps take five steps
_BIAS = np.dtype("<f4")

# Of 16 hidden channels in a row of a float8 core matrix: a thread of the expand kernel has four neighbours of them.
_FLOAT8_HIDDEN = np.array([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15])


@dataclass(frozen=True, eq=False)
class ConvFirstWeights:
    """Weights of one block.

    ``conv.weight`` is (C, 8, 3, 3) as in ``torch.nn.Conv2d(C, C, 3, groups=C // 8)``, ``expand.weight`` (hidden, C)
    and ``project.weight`` (C, hidden); the latter two may carry 1x1 convolutions' trailing (1, 1).
    """

    conv: Conv
    expand: Conv
    project: Conv

    @classmethod
    def random(cls, problem: ConvFirst, seed: int = 0) -> ConvFirstWeights:
        """Seeded float32 weights with biases and BatchNorms, scaled so that unit-variance input stays of order 1."""
        rng = np.random.default_rng(seed)
        return cls(*(Conv.random(rng, shape) for shape in _shapes(problem).values()))


@dataclass(frozen=True, eq=False)
class FoldedWeights:
    """Weights in the precision in which they are stored: matrices in the problem's dtype, biases in float32."""

    conv: Array
    expand: Array
    project: Array
    conv_bias: Array
    expand_bias: Array
    project_bias: Array


def storage_dtype(problem: ConvFirst) -> np.dtype[Any]:
    """The NumPy dtype in which activations and weights are stored."""
    return STORAGE_DTYPES[problem.dtype]


def fold(problem: ConvFirst, weights: ConvFirstWeights) -> FoldedWeights:
    """Fold the BatchNorms in float64, then round: matrices to the problem's dtype, biases to float32.

    Raises:
        WeightsError: a shape, a value or a dtype is wrong, or a folded value overflows; the message names the conv.
    """
    if not isinstance(weights, ConvFirstWeights):
        raise WeightsError(f"weights must be a ConvFirstWeights, but got {type(weights).__name__}; build one of Convs")
    matrices, biases = [], []
    for name, shape in _shapes(problem).items():
        accepted = (shape,) if len(shape) == 4 else (shape, (*shape, 1, 1))
        weight, bias = folded_conv(name, getattr(weights, name), accepted, problem)
        matrices.append(rounded(f"{name}.weight", weight, storage_dtype(problem)))
        biases.append(rounded(f"{name}.bias", bias, np.dtype(np.float32)))
    return FoldedWeights(*matrices, *biases)


def pack(problem: ConvFirst, folded: FoldedWeights) -> Array:
    """The bytes that every convfirst kernel streams, as a uint8 vector; the layout does not depend on the config.

    In order, all little endian: the grouped conv as mma.m16n8k16 B fragments, 2560 bytes per pair of groups; the
    expand and the project matrices as core matrices, 8 outputs x 8 inputs in 128 contiguous bytes, in the order
    [hidden / 8][channels / 8] and [hidden / 16][channels / 8][2]; the float32 biases of conv, expand and project.

    With float8 matmuls the conv's weight and bias are multiplied by z's scale, which is exact but for what float16
    holds as subnormals. Core matrices are 8 outputs x 16 inputs of e4m3, in the order [hidden / 8][channels / 16] and
    [hidden / 32][channels / 8][2]; of 16 hidden channels the order is 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. Scales
    follow their layer's bias: conv bias; expand bias, its scale, that of h; project bias, its scale.

    Raises:
        WeightsError: ``folded`` is not of this problem's shapes and dtype, or a float8 scale overflows.
    """
    check_folded(problem, folded)
    parts = _float8_parts(folded, quantise(folded)) if problem.matmul == "float8" else _storage_parts(folded)
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def packed_bytes(problem: ConvFirst) -> int:
    """Size of what :func:`pack` returns."""
    matrices = 2 * problem.matmul_bytes * problem.channels * problem.hidden
    return problem.channels // 16 * 2560 + matrices + 4 * problem.vector_values


def unpack(problem: ConvFirst, blob: Array) -> FoldedWeights:
    """The inverse of :func:`pack`, which float8 matmuls have none of.

    Raises:
        WeightsError: ``blob`` is not a uint8 vector of this problem's packed size, or holds float8 matrices.
    """
    if problem.matmul == "float8":
        raise WeightsError(f"weights must be packed for 16-bit matmuls, but got {problem}; keep the folded weights")
    channels, hidden = problem.channels, problem.hidden
    matrices = [channels // 16 * 2560, hidden * channels * 2, hidden * channels * 2]
    ends = np.cumsum([*matrices, 4 * channels, 4 * hidden, 4 * channels])
    blob = np.asarray(blob)
    if blob.shape != (ends[-1],) or blob.dtype != np.uint8:
        raise WeightsError(
            f"packed weights must be a uint8 vector of {ends[-1]} bytes for {problem}, but got {blob.dtype} of shape "
            f"{blob.shape}; pack them for this problem"
        )
    conv, expand, project, *biases = np.split(np.ascontiguousarray(blob), ends[:-1])
    dtype = storage_dtype(problem)
    return FoldedWeights(
        _unpack_conv(conv.view(WORD)).astype(np.uint16).view(dtype),
        unpack_outer_outputs(expand.view(WORD), (hidden, channels)).astype(np.uint16).view(dtype),
        unpack_inner_outputs(project.view(WORD), (channels, hidden)).astype(np.uint16).view(dtype),
        *(bias.view(_BIAS).astype(np.float32) for bias in biases),
    )


def check_folded(problem: ConvFirst, folded: FoldedWeights) -> None:
    """Check that ``folded`` has this problem's shapes and dtypes.

    Raises:
        WeightsError: it does not.
    """
    for name, shape in _shapes(problem).items():
        for field, dtype, want in ((name, storage_dtype(problem), shape), (f"{name}_bias", np.float32, shape[:1])):
            array = getattr(folded, field)
            if array.shape != want or array.dtype != dtype:
                raise WeightsError(
                    f"folded {field} must be {np.dtype(dtype).name} of shape {want} for {problem}, but got "
                    f"{array.dtype.name} of shape {array.shape}; fold the weights for this problem"
                )


def _storage_parts(folded: FoldedWeights) -> list[Array]:
    return [
        _pack_conv(bits(folded.conv)),
        pack_outer_outputs(bits(folded.expand)),
        pack_inner_outputs(bits(folded.project)),
        *(bias.astype(_BIAS) for bias in (folded.conv_bias, folded.expand_bias, folded.project_bias)),
    ]


def _float8_parts(folded: FoldedWeights, float8: Float8Weights) -> list[Array]:
    """Pairs of e4m3 are packed as 16-bit elements are."""
    conv = (folded.conv.astype(np.float64) * float8.z_scale.reshape(-1, 1, 1, 1)).astype(folded.conv.dtype)
    project = float8.project.reshape(-1, 16)[:, _FLOAT8_HIDDEN].reshape(float8.project.shape)
    vectors = (
        folded.conv_bias * float8.z_scale,
        *(folded.expand_bias, float8.expand_scale, float8.hidden_scale),
        *(folded.project_bias, float8.project_scale),
    )
    return [
        _pack_conv(bits(conv)),
        pack_outer_outputs(bits(float8.expand)),
        pack_inner_outputs(bits(project)),
        *(vector.astype(_BIAS) for vector in vectors),
    ]


def _pack_conv(weight: Array) -> Array:
    """(C, 8, 3, 3) to (pairs of groups, 5 blocks, 32 lanes, 8 elements).

    A group is a matmul of depth k = tap * 8 + input channel (the tenth tap is zeros) and width n = output channel.
    Blocks 0 to 3 hold steps 0-1 and 2-3 of each group in turn; block 4 holds step 4 of both.
    """
    groups = weight.shape[0] // GROUP_WIDTH
    taps = weight.reshape(groups, GROUP_WIDTH, GROUP_WIDTH, TAPS).transpose(0, 3, 2, 1)
    padded = np.zeros((groups, _PADDED_TAPS, GROUP_WIDTH, GROUP_WIDTH), weight.dtype)
    padded[:, :TAPS] = taps
    # [group, step, half, k2, pair, n] to [group, step, lane = n * 4 + k2, half, pair]
    steps = padded.reshape(groups, 5, 2, 4, 2, 8).transpose(0, 1, 5, 3, 2, 4).reshape(groups, 5, 32, 4)
    front = steps[:, :4].reshape(groups // 2, 4, 2, 32, 4).transpose(0, 1, 3, 2, 4)
    back = steps[:, 4].reshape(groups // 2, 1, 2, 32, 4).transpose(0, 1, 3, 2, 4)
    return np.concatenate([front, back], axis=1)


def _unpack_conv(words: Array) -> Array:
    blocks = words.reshape(-1, 5, 32, 2, 4).transpose(0, 1, 3, 2, 4)
    pairs = blocks.shape[0]
    steps = np.concatenate([blocks[:, :4].reshape(2 * pairs, 4, 32, 4), blocks[:, 4].reshape(2 * pairs, 1, 32, 4)], 1)
    taps = steps.reshape(2 * pairs, 5, 8, 4, 2, 2).transpose(0, 1, 4, 3, 5, 2)
    taps = taps.reshape(2 * pairs, _PADDED_TAPS, GROUP_WIDTH, GROUP_WIDTH)[:, :TAPS]
    weight: Array = taps.transpose(0, 3, 2, 1).reshape(-1, GROUP_WIDTH, KERNEL_SIZE, KERNEL_SIZE)
    return weight


def _shapes(problem: ConvFirst) -> dict[str, tuple[int, ...]]:
    """Weight shape by the name of the convolution, in the order of the data's way."""
    channels, hidden = problem.channels, problem.hidden
    return {
        "conv": (channels, GROUP_WIDTH, KERNEL_SIZE, KERNEL_SIZE),
        "expand": (hidden, channels),
        "project": (channels, hidden),
    }
