"""Quantised weights and scales against their formulas, one channel at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen.blocks.convfirst.float8 import E4M3, quantise, to_e4m3
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.weights import ConvFirstWeights, FoldedWeights, fold

PROBLEM = ConvFirst(1, 4, 4, 64, expansion=2, matmul="float8")


def folded(dtype: Any = "float16", seed: int = 3) -> FoldedWeights:
    problem = replace(PROBLEM, dtype=dtype)
    return fold(problem, ConvFirstWeights.random(problem, seed=seed))


def test_e4m3_rounds_to_nearest_even_and_saturates() -> None:
    values = np.array([0, 1, 1.0625, 1.1875, 17, 447, 448, 449, 1e30, np.inf, -1e30, 2**-9, 2**-10, 3 * 2**-10])
    expected = [0, 1, 1, 1.25, 16, 448, 448, 448, 448, 448, -448, 2**-9, 0, 2**-8]
    np.testing.assert_array_equal(to_e4m3(values).astype(float), expected)
    assert np.isnan(to_e4m3(np.array([np.nan])).astype(float)).all()


def test_all_of_e4m3_comes_back() -> None:
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    finite = every[np.isfinite(every.astype(float))]
    assert to_e4m3(finite.astype(float)).tobytes() == finite.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_follow_the_formula_channel_by_channel(dtype: Any) -> None:
    weights = folded(dtype)
    float8 = quantise(weights)
    conv, expand, project = (matrix.astype(float) for matrix in (weights.conv, weights.expand, weights.project))
    deviations = [math.sqrt((conv[j] ** 2).sum()) for j in range(64)]
    for j in range(64):
        room = abs(float(weights.conv_bias[j])) + 16 * deviations[j]
        assert float8.z_scale[j] == 2.0 ** math.floor(math.log2(448 / room))
    for j in range(128):
        mean = float(weights.expand_bias[j]) + sum(expand[j, i] * float(weights.conv_bias[i]) for i in range(64))
        deviation = math.sqrt(sum((expand[j, i] * deviations[i]) ** 2 for i in range(64)))
        assert float8.hidden_scale[j] == 2.0 ** math.floor(math.log2(448 / (abs(mean) + 16 * deviation)))
    for matrix, inputs, quantised, scale in (
        (expand, float8.z_scale, float8.expand, float8.expand_scale),
        (project, float8.hidden_scale, float8.project, float8.project_scale),
    ):
        divided = matrix / inputs
        np.testing.assert_array_equal(scale, (abs(divided).max(axis=1) / 448).astype(np.float32))
        assert quantised.dtype == E4M3 and (abs(quantised.astype(float)).max(axis=1) == 448).all()
        back = quantised.astype(float) * scale[:, None]
        # Half a unit of 3 bits of mantissa; below the least normal number, half the least subnormal.
        assert (abs(back - divided) <= np.maximum(abs(divided) * 2**-4, scale[:, None] * 2.0**-10) * 1.001).all()


def test_what_is_scaled_fits_e4m3() -> None:
    """z and h of unit-variance inputs neither saturate nor come near the subnormals."""
    weights = folded()
    float8 = quantise(weights)
    z = np.random.default_rng(0).standard_normal((4096, 64)) * np.sqrt(
        np.square(weights.conv.astype(float)).reshape(64, -1).sum(axis=1)
    )
    scaled = abs(z + weights.conv_bias) * float8.z_scale
    assert scaled.max() < 448 / 2 and np.median(scaled) > 2


def test_columns_of_zeros_have_scale_one() -> None:
    weights = folded()
    weights.conv[3], weights.conv_bias[3] = 0, 0
    weights.expand[5], weights.expand_bias[5] = 0, 0
    weights.project[7] = 0
    float8 = quantise(weights)
    assert float8.z_scale[3] == float8.expand_scale[5] == float8.hidden_scale[5] == float8.project_scale[7] == 1
    assert not float8.expand[5].astype(float).any() and not float8.project[7].astype(float).any()


def test_extreme_weights_keep_finite_scales() -> None:
    weights = folded("bfloat16")
    weights.conv[0], weights.conv[1] = 1e30, 1e-38
    weights.conv_bias[:2] = 0
    weights.project[2] = 1e-38
    float8 = quantise(weights)
    for scale in (float8.z_scale, float8.expand_scale, float8.hidden_scale, float8.project_scale):
        assert np.isfinite(scale).all() and (scale > 0).all()
    for matrix in (float8.expand, float8.project):
        assert np.isfinite(matrix.astype(float)).all()
