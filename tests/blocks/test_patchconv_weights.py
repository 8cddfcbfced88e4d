"""Folding against the formula written out, packing against an element-by-element reading of the layout."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_convfirst_weights import core_matrices

from kgen.blocks.layers import STORAGE_DTYPES, BatchNorm, Conv
from kgen.blocks.patchconv import weights as module
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.patchconv.weights import FoldedWeights, PatchConvWeights, fold, pack
from kgen.errors import WeightsError

PROBLEM = PatchConv(1, 4, 4, 16, 32)
LINEAR = PatchConv(1, 4, 4, 16, 32, 1)
IMAGE = PatchConv(2, 8, 9, 3, 16, 4, pixels="uint8")


def folded_random(problem: PatchConv, seed: int = 3) -> FoldedWeights:
    return fold(problem, PatchConvWeights.random(problem, seed))


def random_conv(problem: PatchConv, seed: int = 5) -> Conv:
    """Float64, of bias and BatchNorm far from doing nothing."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(problem.outputs, problem.channels, problem.patch, problem.patch))
    bias, gamma, beta, mean = rng.normal(size=(4, problem.outputs))
    return Conv(weight, bias, BatchNorm(gamma, beta, mean, rng.uniform(0.1, 2, problem.outputs), eps=1e-3))


def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "rounded", lambda name, values, dtype: values)


def place(problem: PatchConv, channel: int, down: int, right: int) -> int:
    """Of an input in its patch, as x has it."""
    if problem.order == "nchw":
        return (channel * problem.patch + down) * problem.patch + right
    return (down * problem.patch + right) * problem.channels + channel


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
@pytest.mark.parametrize("problem", [PROBLEM, LINEAR, IMAGE], ids=["2x2", "linear", "image"])
def test_folding_follows_the_formula_number_by_number(
    monkeypatch: pytest.MonkeyPatch, problem: PatchConv, order: Any
) -> None:
    if problem.image:
        problem = replace(problem, order=order)
    without_rounding(monkeypatch)
    conv, rng = random_conv(problem), np.random.default_rng(7)
    mean, std = rng.uniform(-1, 1, problem.channels), rng.uniform(0.1, 2, problem.channels)
    folded = fold(problem, PatchConvWeights(conv, mean, std))
    weight, bn = np.asarray(conv.weight), conv.bn
    assert bn is not None
    white = 255 if problem.pixels == "uint8" else 1
    taps = list(itertools.product(range(problem.channels), range(problem.patch), range(problem.patch)))
    assert folded.conv.shape == (problem.outputs, len(taps))
    for n in range(problem.outputs):
        scale = bn.gamma[n] / math.sqrt(bn.var[n] + 1e-3)
        shift = bn.beta[n] + (conv.bias[n] - bn.mean[n]) * scale
        for c, down, right in taps:
            value = weight[n, c, down, right] * scale / std[c]
            shift -= value * mean[c]
            assert folded.conv[n, place(problem, c, down, right)] == pytest.approx(value / white, rel=1e-12)
        assert folded.conv_bias[n] == pytest.approx(shift, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("pixels", ["uint8", "storage"])
@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_folded_normalisation_is_normalising_x(monkeypatch: pytest.MonkeyPatch, pixels: Any, order: Any) -> None:
    problem = replace(IMAGE, pixels=pixels, order=order)
    without_rounding(monkeypatch)
    conv = random_conv(problem)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    folded = fold(problem, PatchConvWeights(conv, mean, std))
    rng = np.random.default_rng(2)
    pixels_of_x = rng.integers(0, 256, (4, 4, 3)) if pixels == "uint8" else rng.normal(size=(4, 4, 3))
    normal = (pixels_of_x / (255 if pixels == "uint8" else 1) - mean) / std
    before = np.einsum("ncyx,yxc->n", conv.weight, normal) + conv.bias
    bn = conv.bn
    assert bn is not None
    unfolded = (before - bn.mean) / np.sqrt(np.asarray(bn.var) + bn.eps) * bn.gamma + bn.beta
    patch = pixels_of_x.transpose(2, 0, 1) if order == "nchw" else pixels_of_x
    np.testing.assert_allclose(folded.conv @ patch.reshape(-1) + folded.conv_bias, unfolded, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("problem", [PROBLEM, IMAGE], ids=["channels", "bytes"])
def test_fold_rounds_once_from_float64(monkeypatch: pytest.MonkeyPatch, problem: PatchConv, dtype: Any) -> None:
    problem = replace(problem, dtype=dtype)
    weights = PatchConvWeights.random(problem, 1)
    folded = fold(problem, weights)
    without_rounding(monkeypatch)
    exact = fold(problem, weights)
    assert exact.conv.dtype == exact.conv_bias.dtype == np.float64
    assert folded.conv.dtype == STORAGE_DTYPES[dtype] and folded.conv_bias.dtype == np.float32
    assert folded.conv.tobytes() == exact.conv.astype(STORAGE_DTYPES[dtype]).tobytes()
    assert folded.conv_bias.tobytes() == exact.conv_bias.astype(np.float32).tobytes()


def test_without_mean_and_std_bytes_are_from_0_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rounding(monkeypatch)
    weight = np.random.default_rng(0).normal(size=(16, 3, 4, 4))
    folded = fold(IMAGE, PatchConvWeights(Conv(weight)))
    np.testing.assert_allclose(folded.conv * 255, weight.transpose(0, 2, 3, 1).reshape(16, 48), rtol=1e-14)
    np.testing.assert_array_equal(folded.conv_bias, np.zeros(16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "problem",
    [PROBLEM, LINEAR, IMAGE, PatchConv(1, 4, 4, 3, 48), PatchConv(1, 4, 4, 1, 16, 1, order="nchw")],
    ids=["2x2", "linear", "image", "12 inputs", "one input"],
)
def test_pack_follows_the_layout_element_by_element(problem: PatchConv, dtype: Any) -> None:
    problem = replace(problem, dtype=dtype)
    folded = folded_random(problem)
    filled = -(-problem.inputs // 16) * 16
    matrix = np.zeros((problem.outputs, filled), folded.conv.dtype)
    matrix[:, : problem.inputs] = folded.conv
    places = (
        (n8, k8) for k16 in range(filled // 16) for n8 in range(problem.outputs // 8) for k8 in (2 * k16, 2 * k16 + 1)
    )
    blob = pack(problem, folded)
    assert blob.dtype == np.uint8 and blob.flags.c_contiguous
    assert blob.tobytes() == b"".join(e.tobytes() for e in core_matrices(places, matrix)) + folded.conv_bias.tobytes()
    assert blob.size == 2 * filled * problem.outputs + 4 * problem.outputs


def test_random_weights_are_seeded() -> None:
    first, again, other = (pack(IMAGE, folded_random(IMAGE, seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_random_weights_normalise_bytes_only() -> None:
    of_bytes, of_storage = PatchConvWeights.random(IMAGE), PatchConvWeights.random(replace(IMAGE, pixels="storage"))
    assert np.shape(of_bytes.mean) == np.shape(of_bytes.std) == (3,)
    assert of_storage.mean is None and of_storage.std is None


def test_a_linear_layer_may_be_a_matrix() -> None:
    weights = PatchConvWeights.random(LINEAR)
    flat = replace(weights, conv=replace(weights.conv, weight=np.asarray(weights.conv.weight)[:, :, 0, 0]))
    assert np.shape(flat.conv.weight) == (32, 16)
    assert pack(LINEAR, fold(LINEAR, flat)).tobytes() == pack(LINEAR, fold(LINEAR, weights)).tobytes()


def test_pack_refuses_weights_of_another_problem() -> None:
    with pytest.raises(WeightsError, match=r"folded conv must be float16 of shape \(32, 64\) .*\(32, 16\)"):
        pack(PROBLEM, folded_random(LINEAR))
    with pytest.raises(WeightsError, match=r"folded conv must be bfloat16 .* but got float16 .*; fold the weights"):
        pack(replace(PROBLEM, dtype="bfloat16"), folded_random(PROBLEM))
    wide = replace(folded_random(PROBLEM), conv_bias=np.zeros(32))
    with pytest.raises(WeightsError, match=r"folded conv_bias must be float32 of shape \(32,\) .* but got float64"):
        pack(PROBLEM, wide)


def with_conv(**fields: Any) -> PatchConvWeights:
    weights = PatchConvWeights.random(PROBLEM)
    return replace(weights, conv=replace(weights.conv, **fields))


def with_norm(**fields: Any) -> PatchConvWeights:
    return replace(PatchConvWeights.random(PROBLEM), **fields)


NAN_WEIGHT = np.full((32, 16, 2, 2), 0.5)
NAN_WEIGHT[3, 1, 1, 0], NAN_WEIGHT[0, 0, 0, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (
            with_conv(weight=np.zeros((32, 2, 2, 16))),
            r"conv.weight must have shape \(32, 16, 2, 2\) .*\(32, 2, 2, 16\)",
        ),
        (with_conv(weight=np.zeros((32, 16))), r"conv.weight must have shape \(32, 16, 2, 2\) for .*\(32, 16\)"),
        (with_conv(weight=NAN_WEIGHT), r"conv.weight must be finite, but 1 of 2048 values are NaN and 1 are infinite"),
        (with_conv(weight=np.full((32, 16, 2, 2), "1")), "conv.weight must hold real numbers, but got dtype <U1"),
        (with_conv(weight=[[1.0], [1.0, 2.0]]), "conv.weight must convert to a NumPy array, but list does not"),
        (with_conv(bias=np.zeros(16)), r"conv.bias must have shape \(32,\), but got \(16,\)"),
        (with_conv(weight=np.full((32, 16, 2, 2), 1e6)), "conv.weight must fit float16 .*2048 of 2048 values overflow"),
        (with_conv(bias=np.full(32, 1e300), bn=None), "conv.bias must fit float32 after BatchNorm folding"),
        (
            with_conv(bn=BatchNorm(*np.full((4, 32), -1.0))),
            "conv.bn.var must be >= 0, but 32 of 32 values are negative",
        ),
        (with_norm(mean=np.zeros(32)), r"mean must have shape \(16,\), but got \(32,\)"),
        (with_norm(mean=np.full(16, np.nan)), "mean must be finite, but 16 of 16 values are NaN"),
        (with_norm(std=1.0), r"std must have shape \(16,\), but got \(\)"),
        (with_norm(std=np.zeros(16)), "std must be > 0, but the least is 0; pass standard deviations"),
        (with_norm(std=np.linspace(-1, 2, 16)), "std must be > 0, but the least is -1; pass standard deviations"),
        (with_norm(std=np.full(16, 1e-9)), "conv.weight must fit float16 after BatchNorm folding"),
        (with_norm(mean=np.full(16, 1e39)), "conv.bias must fit float32 after BatchNorm folding"),
        ({"conv": None}, "weights must be a PatchConvWeights, but got dict; build one of a Conv"),
        (PatchConvWeights(np.zeros((32, 16, 2, 2))), "conv must be a Conv, but got ndarray"),  # type: ignore[arg-type]
    ],
)
def test_bad_weights_are_named(weights: Any, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence) as caught:
        fold(PROBLEM, weights)
    assert "; " in str(caught.value)


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"must have shape \(32, 16, 1, 1\) or \(32, 16\) for .* but got \(16, 32\)"):
        fold(LINEAR, PatchConvWeights(Conv(np.zeros((16, 32)))))
