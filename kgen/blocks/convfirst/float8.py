"""Float8 matmuls of a convfirst block: its weights quantised to e4m3, and the scales of z and h, chosen without data.

e4m3 has 3 bits of mantissa, normal numbers from 2^-6 to 448 and subnormals from 2^-9. Each channel of z and of h is
multiplied by a power of two on its way to e4m3, and the matrix that takes it is divided by that:
z scale = 2^floor(log2(448 / (|mean| + 16 deviations))). Mean and deviation are what the folded weights give if the
inputs of the block, and then those of the expand matmul, are independent, and x has mean 0 and variance 1:

    z_j: mean b0_j, deviation ||w0_j||        before the activation: mean b1_j + sum_i W1_ij b0_i,
                                              deviation sqrt(sum_i W1_ij^2 ||w0_i||^2)

The activations do not raise magnitudes, so that h takes the latter. x may so be several times as large before anything
saturates, and a deviation lies a thousand times above the least normal number.

After that each output channel of a matrix has the scale max|W_j| / 448 (1 where that is zero), and W_j / scale is
rounded to nearest even. All of this follows from first principles; it is no published recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from kgen.blocks.layers import Array, rounded

if TYPE_CHECKING:
    from kgen.blocks.convfirst.weights import FoldedWeights

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E4M3_MAX = 448.0
DEVIATIONS = 16
"""Standard deviations that a channel's scale leaves room for."""
_MAX_EXPONENT = 100
_LEAST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Float8Weights:
    """Matrices of a float8 block in e4m3, (outputs, inputs), and the float32 scales that go with them.

    ``expand`` takes e4m3(z * ``z_scale``), and its sums times ``expand_scale`` are those of the expand matmul;
    ``project`` takes e4m3(h * ``hidden_scale``), and its sums have ``project_scale``. The scales of z and h are powers
    of two.
    """

    expand: Array
    project: Array
    z_scale: Array
    expand_scale: Array
    hidden_scale: Array
    project_scale: Array


def quantise(folded: FoldedWeights) -> Float8Weights:
    """The float8 weights of a block; equal weights give equal bytes.

    Raises:
        WeightsError: a scale overflows float32.
    """
    conv, expand, project = (matrix.astype(np.float64) for matrix in (folded.conv, folded.expand, folded.project))
    conv_bias = folded.conv_bias.astype(np.float64)
    variance = np.square(conv).reshape(len(conv), -1).sum(axis=1)
    z_scale = _power_of_two(abs(conv_bias) + DEVIATIONS * np.sqrt(variance))
    mean = folded.expand_bias + expand @ conv_bias
    hidden_scale = _power_of_two(abs(mean) + DEVIATIONS * np.sqrt(np.square(expand) @ variance))
    expand_e4m3, expand_scale = _by_output("expand", expand / z_scale)
    project_e4m3, project_scale = _by_output("project", project / hidden_scale)
    scales = (z_scale.astype(np.float32), expand_scale, hidden_scale.astype(np.float32), project_scale)
    return Float8Weights(expand_e4m3, project_e4m3, *scales)


def to_e4m3(values: Array) -> Array:
    """``values`` rounded to nearest even, beyond 448 to 448; NaN stays NaN."""
    e4m3: Array = np.clip(values, -E4M3_MAX, E4M3_MAX).astype(E4M3)
    return e4m3


def _power_of_two(sizes: Array) -> Array:
    """The largest powers of two that keep ``sizes`` within e4m3; 1 for 0."""
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log2(E4M3_MAX / sizes))
    powers: Array = np.exp2(np.where(sizes > 0, np.clip(exponents, -_MAX_EXPONENT, _MAX_EXPONENT), 0))
    return powers


def _by_output(name: str, matrix: Array) -> tuple[Array, Array]:
    """A matrix (outputs, inputs) in e4m3, and each output's scale in float32."""
    largest = abs(matrix).max(axis=1) / E4M3_MAX
    scale = rounded(f"{name}.scale", np.where(largest >= _LEAST_SCALE, largest, 1), np.dtype(np.float32))
    return to_e4m3(matrix / scale[:, None].astype(np.float64)), scale
