"""Weights of a classifier: rounded to the storage dtype, and packed for the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.layers import STORAGE_DTYPES, Array, Conv, folded_conv, rounded
from kgen.blocks.packing import bits, pack_outer_outputs
from kgen.errors import WeightsError

CLASSES_UNIT = 16
"""Classes are filled up with zeros to a multiple of it."""


@dataclass(frozen=True, eq=False)
class ClassifierWeights:
    """Weights of one classifier: ``linear.weight`` is (classes, channels) as in ``torch.nn.Linear``."""

    linear: Conv

    @classmethod
    def random(cls, problem: Classifier, seed: int = 0) -> ClassifierWeights:
        """Seeded float32 weight and bias, scaled so that logits are of order 1."""
        rng = np.random.default_rng(seed)
        shape, scale = (problem.classes, problem.channels), np.sqrt(problem.pixels / problem.channels)
        weight = (scale * rng.standard_normal(shape)).astype(np.float32)
        return cls(Conv(weight, (0.1 * rng.standard_normal(problem.classes)).astype(np.float32)))


@dataclass(frozen=True, eq=False)
class FoldedWeights:
    """Weights in the precision in which they are stored: the matrix (classes, channels) and the float32 bias."""

    linear: Array
    linear_bias: Array


def fold(problem: Classifier, weights: ClassifierWeights) -> FoldedWeights:
    """Round the matrix to the problem's dtype, the bias to float32.

    Raises:
        WeightsError: a shape, a value or a dtype is wrong, or a value overflows.
    """
    if not isinstance(weights, ClassifierWeights):
        raise WeightsError(
            f"weights must be a ClassifierWeights, but got {type(weights).__name__}; build one of a Conv"
        )
    weight, bias = folded_conv("linear", weights.linear, ((problem.classes, problem.channels),), problem)
    matrix = rounded("linear.weight", weight, STORAGE_DTYPES[problem.dtype])
    return FoldedWeights(matrix, rounded("linear.bias", bias, np.dtype(np.float32)))


def pack(problem: Classifier, folded: FoldedWeights) -> Array:
    """The bytes that the kernel streams, as a uint8 vector: the matrix as core matrices, 8 classes x 8 channels in 128
    contiguous bytes, in the order [classes / 8][channels / 8]; then the float32 bias. Both are filled up with zeros to
    a multiple of 16 classes. Little endian.

    Raises:
        WeightsError: ``folded`` is not of this problem's shapes and dtype.
    """
    check_folded(problem, folded)
    filled = padded_classes(problem) - problem.classes
    matrix = np.pad(bits(folded.linear), ((0, filled), (0, 0)))
    parts = (pack_outer_outputs(matrix), np.pad(folded.linear_bias, (0, filled)).astype("<f4"))
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def padded_classes(problem: Classifier) -> int:
    """Classes filled up to whole tiles of the matmul."""
    return -(-problem.classes // CLASSES_UNIT) * CLASSES_UNIT


def check_folded(problem: Classifier, folded: FoldedWeights) -> None:
    """Raise WeightsError unless ``folded`` has this problem's shapes and dtypes."""
    wanted = {
        "linear": ((problem.classes, problem.channels), STORAGE_DTYPES[problem.dtype]),
        "linear_bias": ((problem.classes,), np.dtype(np.float32)),
    }
    for field, (shape, dtype) in wanted.items():
        array = getattr(folded, field)
        if array.shape != shape or array.dtype != dtype:
            raise WeightsError(
                f"folded {field} must be {dtype.name} of shape {shape} for {problem}, but got {array.dtype.name} of "
                f"shape {array.shape}; fold the weights for this problem"
            )
