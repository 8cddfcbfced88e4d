"""Matrices as the kernels' weights: core matrices of 8 outputs x 8 inputs, 128 contiguous bytes each."""

from __future__ import annotations

import numpy as np

from kgen.blocks.layers import Array

WORD = np.dtype("<u2")

# A matrix (outputs, inputs) seen as [n8, n, k16, k8, k], and the order of its core matrices [n][k].
_OUTER_OUTPUTS = (0, 2, 3, 1, 4)
_INNER_OUTPUTS = (2, 0, 3, 1, 4)


def pack_outer_outputs(matrix: Array) -> Array:
    """16-bit words (outputs, inputs) as core matrices in the order [outputs / 8][inputs / 8]."""
    return _pack(matrix, _OUTER_OUTPUTS)


def pack_inner_outputs(matrix: Array) -> Array:
    """16-bit words (outputs, inputs) as core matrices in the order [inputs / 16][outputs / 8][2]."""
    return _pack(matrix, _INNER_OUTPUTS)


def unpack_outer_outputs(words: Array, shape: tuple[int, int]) -> Array:
    """The inverse of :func:`pack_outer_outputs`."""
    return _unpack(words, shape, _OUTER_OUTPUTS)


def unpack_inner_outputs(words: Array, shape: tuple[int, int]) -> Array:
    """The inverse of :func:`pack_inner_outputs`."""
    return _unpack(words, shape, _INNER_OUTPUTS)


def bits(matrix: Array) -> Array:
    """A matrix of a 16-bit dtype, or of pairs of e4m3, as little-endian words."""
    return np.ascontiguousarray(matrix).view(np.uint16).astype(WORD)


def _pack(matrix: Array, order: tuple[int, ...]) -> Array:
    rows, columns = matrix.shape
    cores: Array = matrix.reshape(rows // 8, 8, columns // 16, 2, 8).transpose(order)
    return cores


def _unpack(words: Array, shape: tuple[int, int], order: tuple[int, ...]) -> Array:
    split = np.array((shape[0] // 8, 8, shape[1] // 16, 2, 8))
    matrix: Array = words.reshape(tuple(split[list(order)])).transpose(np.argsort(order)).reshape(shape)
    return matrix
