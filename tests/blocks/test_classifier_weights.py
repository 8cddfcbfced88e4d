"""Rounding of a classifier's weights, and packing against an element-by-element reading of the layout."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_convfirst_weights import core_matrices

from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.weights import ClassifierWeights, FoldedWeights, fold, pack
from kgen.blocks.layers import STORAGE_DTYPES, BatchNorm, Conv
from kgen.errors import WeightsError

PROBLEM = Classifier(2, 3, 3, 32, 21)


def folded_random(problem: Classifier, seed: int = 3) -> FoldedWeights:
    return fold(problem, ClassifierWeights.random(problem, seed))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fold_rounds_once(dtype: Any) -> None:
    problem = replace(PROBLEM, dtype=dtype)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(21, 32)), rng.normal(size=21)
    folded = fold(problem, ClassifierWeights(Conv(weight, bias)))
    assert folded.linear.dtype == STORAGE_DTYPES[dtype] and folded.linear_bias.dtype == np.float32
    assert folded.linear.tobytes() == weight.astype(STORAGE_DTYPES[dtype]).tobytes()
    assert folded.linear_bias.tobytes() == bias.astype(np.float32).tobytes()


def test_a_classifier_may_have_no_bias() -> None:
    folded = fold(PROBLEM, ClassifierWeights(Conv(np.ones((21, 32)))))
    np.testing.assert_array_equal(folded.linear_bias, np.zeros(21))


def test_a_batchnorm_is_folded_in() -> None:
    rng = np.random.default_rng(5)
    weight, (bias, gamma, beta, mean) = rng.normal(size=(21, 32)), rng.normal(size=(4, 21))
    var = rng.uniform(0.1, 2, 21)
    folded = fold(PROBLEM, ClassifierWeights(Conv(weight, bias, BatchNorm(gamma, beta, mean, var, eps=1e-3))))
    for n in range(21):
        scale = gamma[n] / math.sqrt(var[n] + 1e-3)
        np.testing.assert_allclose(folded.linear[n].astype(float), weight[n] * scale, rtol=2**-10, atol=2**-24)
        assert folded.linear_bias[n] == pytest.approx(beta[n] + (bias[n] - mean[n]) * scale, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("channels", "classes"), [(16, 1), (32, 21), (48, 16), (16, 48), (64, 33)])
def test_pack_follows_the_layout_element_by_element(channels: int, classes: int, dtype: Any) -> None:
    problem = replace(PROBLEM, channels=channels, classes=classes, dtype=dtype)
    folded = folded_random(problem)
    filled = -(-classes // 16) * 16
    matrix, bias = np.zeros((filled, channels), folded.linear.dtype), np.zeros(filled, np.float32)
    matrix[:classes], bias[:classes] = folded.linear, folded.linear_bias
    places = ((n8, k8) for n8 in range(filled // 8) for k8 in range(channels // 8))
    blob = pack(problem, folded)
    assert blob.dtype == np.uint8 and blob.flags.c_contiguous
    assert blob.tobytes() == b"".join(e.tobytes() for e in core_matrices(places, matrix)) + bias.tobytes()
    assert blob.size == 2 * filled * channels + 4 * filled


def test_random_weights_are_seeded() -> None:
    first, again, other = (pack(PROBLEM, folded_random(PROBLEM, seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_pack_refuses_weights_of_another_problem() -> None:
    with pytest.raises(WeightsError, match=r"folded linear must be float16 of shape \(21, 32\) .*\(22, 32\)"):
        pack(PROBLEM, folded_random(replace(PROBLEM, classes=22)))
    with pytest.raises(WeightsError, match=r"folded linear must be bfloat16 .* but got float16 .*; fold the weights"):
        pack(replace(PROBLEM, dtype="bfloat16"), folded_random(PROBLEM))
    wide = replace(folded_random(PROBLEM), linear_bias=np.zeros(21))
    with pytest.raises(WeightsError, match=r"folded linear_bias must be float32 of shape \(21,\) .* but got float64"):
        pack(PROBLEM, wide)


def with_linear(**fields: Any) -> ClassifierWeights:
    return ClassifierWeights(replace(ClassifierWeights.random(PROBLEM).linear, **fields))


NAN_WEIGHT = np.full((21, 32), 0.5)
NAN_WEIGHT[3, 1], NAN_WEIGHT[0, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (with_linear(weight=np.zeros((32, 21))), r"linear.weight must have shape \(21, 32\) for .* but got \(32, 21\)"),
        (with_linear(weight=np.zeros((21, 32, 1, 1))), r"linear.weight must have shape \(21, 32\) .*\(21, 32, 1, 1\)"),
        (with_linear(weight=None), r"linear.weight must have shape \(21, 32\) for .* but got \(\)"),
        (
            with_linear(weight=NAN_WEIGHT),
            "linear.weight must be finite, but 1 of 672 values are NaN and 1 are infinite",
        ),
        (with_linear(weight=np.full((21, 32), "1")), "linear.weight must hold real numbers, but got dtype <U1"),
        (with_linear(weight=[[1.0], [1.0, 2.0]]), "linear.weight must convert to a NumPy array, but list does not"),
        (with_linear(weight=np.full((21, 32), 1e6)), "linear.weight must fit float16 .*672 of 672 values overflow"),
        (with_linear(bias=np.zeros(32)), r"linear.bias must have shape \(21,\), but got \(32,\)"),
        (with_linear(bias=np.full(21, 1e300)), "linear.bias must fit float32"),
        ({"linear": None}, "weights must be a ClassifierWeights, but got dict; build one of a Conv"),
        (ClassifierWeights(np.zeros((21, 32))), "linear must be a Conv, but got ndarray"),  # type: ignore[arg-type]
    ],
)
def test_bad_weights_are_named(weights: Any, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence) as caught:
        fold(PROBLEM, weights)
    assert "; " in str(caught.value)


def test_bfloat16_holds_what_float16_does_not() -> None:
    folded = fold(replace(PROBLEM, dtype="bfloat16"), with_linear(weight=np.full((21, 32), 1e6)))
    assert np.isfinite(folded.linear.astype(np.float32)).all()
