"""Folding against the formula written out, packing against a word-by-word reading of the layout."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen.blocks.convfirst.float8 import quantise
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.weights import (
    BatchNorm,
    Conv,
    ConvFirstWeights,
    FoldedWeights,
    fold,
    pack,
    storage_dtype,
    unpack,
)
from kgen.errors import WeightsError

PROBLEM = ConvFirst(1, 4, 4, 16)
FIELDS = ("conv", "expand", "project", "conv_bias", "expand_bias", "project_bias")


def conv_words(problem: ConvFirst, conv: np.ndarray) -> Iterator[np.generic]:
    """Elements of the conv section, in order, straight from the layout's description."""

    def word(group: int, step: int, half: int, lane: int) -> Iterator[np.generic]:
        n = lane // 4
        for k in (16 * step + 8 * half + 2 * (lane % 4) + low for low in (0, 1)):
            tap, ci = divmod(k, 8)
            yield conv[group * 8 + n, ci, tap // 3, tap % 3] if tap < 9 else conv.dtype.type(0)

    for pair in range(problem.channels // 16):
        g0, g1 = 2 * pair, 2 * pair + 1
        for block in (
            ((g0, 0, 0), (g0, 0, 1), (g0, 1, 0), (g0, 1, 1)),
            ((g0, 2, 0), (g0, 2, 1), (g0, 3, 0), (g0, 3, 1)),
            ((g1, 0, 0), (g1, 0, 1), (g1, 1, 0), (g1, 1, 1)),
            ((g1, 2, 0), (g1, 2, 1), (g1, 3, 0), (g1, 3, 1)),
            ((g0, 4, 0), (g0, 4, 1), (g1, 4, 0), (g1, 4, 1)),
        ):
            for lane in range(32):
                for group, step, half in block:
                    yield from word(group, step, half, lane)


def core_matrices(places: Iterator[tuple[int, int]], matrix: np.ndarray) -> Iterator[np.generic]:
    """Elements of the core matrices at (n8, k8), row by row."""
    for n8, k8 in places:
        for n in range(8 * n8, 8 * n8 + 8):
            for k in range(8 * k8, 8 * k8 + 8):
                yield matrix[n, k]


def packed_by_hand(problem: ConvFirst, folded: FoldedWeights) -> bytes:
    c8, h8 = problem.channels // 8, problem.hidden // 8
    expand_places = ((n8, k8) for n8 in range(h8) for k8 in range(c8))
    project_places = ((n8, k8) for k16 in range(h8 // 2) for n8 in range(c8) for k8 in (2 * k16, 2 * k16 + 1))
    elements = [
        *conv_words(problem, folded.conv),
        *core_matrices(expand_places, folded.expand),
        *core_matrices(project_places, folded.project),
    ]
    biases = (folded.conv_bias, folded.expand_bias, folded.project_bias)
    return b"".join(element.tobytes() for element in elements) + b"".join(bias.tobytes() for bias in biases)


def folded_random(problem: ConvFirst, seed: int = 3) -> FoldedWeights:
    return fold(problem, ConvFirstWeights.random(problem, seed=seed))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("channels", "expansion"), [(16, 1), (16, 4), (32, 1.5), (48, 4), (64, 1), (96, 1.5)])
def test_pack_follows_the_layout_word_by_word(channels: int, expansion: float, dtype: Any) -> None:
    problem = ConvFirst(1, 4, 4, channels, expansion=expansion, dtype=dtype)
    folded = folded_random(problem)
    blob = pack(problem, folded)
    assert blob.dtype == np.uint8
    assert blob.flags.c_contiguous
    assert blob.tobytes() == packed_by_hand(problem, folded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("channels", "expansion"), [(16, 1), (80, 4), (32, 1.5), (48, 8)])
def test_unpack_inverts_pack(channels: int, expansion: float, dtype: Any) -> None:
    problem = ConvFirst(1, 4, 4, channels, expansion=expansion, dtype=dtype)
    folded = folded_random(problem)
    again = unpack(problem, pack(problem, folded))
    for field in FIELDS:
        ours, theirs = getattr(again, field), getattr(folded, field)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes(), field


def test_sections_start_on_16_bytes_at_the_documented_offsets() -> None:
    problem = ConvFirst(1, 4, 4, 48, expansion=4)
    folded = folded_random(problem)
    blob = pack(problem, folded)
    expand = 48 // 16 * 2560
    biases = expand + 2 * (48 * 192 * 2)
    assert blob.size == biases + 4 * (48 + 192 + 48)
    assert expand % 16 == biases % 16 == 0
    assert blob[expand : expand + 4].tobytes() == folded.expand[0, :2].tobytes()
    assert blob[biases : biases + 4].tobytes() == folded.conv_bias[:1].tobytes()


def test_float8_weights_are_packed_byte_by_byte() -> None:
    problem = ConvFirst(1, 4, 4, 64, expansion=2, matmul="float8")
    folded = folded_random(problem)
    float8 = quantise(folded)
    scaled = (folded.conv * float8.z_scale.reshape(-1, 1, 1, 1)).astype(np.float16)
    expand_places = ((n8, k16) for n8 in range(16) for k16 in range(4))
    project_places = ((n8, k16) for k32 in range(4) for n8 in range(8) for k16 in (2 * k32, 2 * k32 + 1))
    hidden_order = [c for t in range(4) for c in (2 * t, 2 * t + 1, 8 + 2 * t, 8 + 2 * t + 1)]
    expected = [element.tobytes() for element in conv_words(problem, scaled)]
    for places, matrix, order in (
        (expand_places, float8.expand, range(16)),
        (project_places, float8.project, hidden_order),
    ):
        for n8, k16 in places:
            expected += [matrix[8 * n8 + n, 16 * k16 + k].tobytes() for n in range(8) for k in order]
    vectors = (
        folded.conv_bias * float8.z_scale,
        *(folded.expand_bias, float8.expand_scale, float8.hidden_scale),
        *(folded.project_bias, float8.project_scale),
    )
    blob = pack(problem, folded)
    assert blob.tobytes() == b"".join(expected) + b"".join(vector.tobytes() for vector in vectors)
    with pytest.raises(WeightsError, match="must be packed for 16-bit matmuls"):
        unpack(problem, blob)


def test_packing_a_large_block_takes_less_than_a_second() -> None:
    problem = ConvFirst(1, 7, 7, 768)
    folded = folded_random(problem)
    began = time.perf_counter()
    blob = pack(problem, folded)
    assert time.perf_counter() - began < 1
    assert blob.size == 48 * 2560 + 2 * (768 * 3072 * 2) + 4 * (768 + 3072 + 768)


def test_pack_refuses_weights_of_another_problem() -> None:
    other = ConvFirst(1, 4, 4, 32)
    with pytest.raises(WeightsError, match=r"folded conv must be float16 of shape \(16, 8, 3, 3\).*\(32, 8, 3, 3\)"):
        pack(PROBLEM, folded_random(other))
    with pytest.raises(WeightsError, match=r"folded conv must be bfloat16 .* but got float16"):
        pack(replace(PROBLEM, dtype="bfloat16"), folded_random(PROBLEM))


@pytest.mark.parametrize("blob", [np.zeros(7, np.uint8), np.zeros((2, 2), np.uint8), np.zeros(9, np.int8)])
def test_unpack_refuses_a_blob_of_another_size(blob: np.ndarray) -> None:
    with pytest.raises(WeightsError, match=r"packed weights must be a uint8 vector of \d+ bytes"):
        unpack(PROBLEM, blob)


def test_folding_follows_the_formula_channel_by_channel() -> None:
    rng = np.random.default_rng(5)
    weight, bias, gamma, beta, mean = rng.normal(size=(16, 4)), *rng.normal(size=(4, 16))
    var = rng.uniform(0.1, 2, 16)
    folded, shift = Conv(weight, bias, BatchNorm(gamma, beta, mean, var, eps=1e-3)).folded()
    for channel in range(16):
        root = math.sqrt(var[channel] + 1e-3)
        np.testing.assert_allclose(folded[channel], weight[channel] * gamma[channel] / root, rtol=1e-14)
        expected = beta[channel] + (bias[channel] - mean[channel]) * gamma[channel] / root
        assert shift[channel] == pytest.approx(expected, rel=1e-13)


def test_folding_without_bias_or_batchnorm() -> None:
    weight = np.arange(32, dtype=np.float32).reshape(16, 2)
    folded, bias = Conv(weight).folded()
    assert folded.dtype == bias.dtype == np.float64
    np.testing.assert_array_equal(folded, weight)
    np.testing.assert_array_equal(bias, np.zeros(16))
    ones, zeros = np.ones(16), np.zeros(16)
    _, shift = Conv(weight, bn=BatchNorm(ones, zeros, 2 * ones, 4 * ones, eps=0)).folded()
    np.testing.assert_array_equal(shift, -ones)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fold_rounds_once_from_float64(dtype: Any) -> None:
    problem = replace(PROBLEM, dtype=dtype)
    weights = ConvFirstWeights.random(problem, seed=1)
    folded = fold(problem, weights)
    assert folded.conv.dtype == folded.expand.dtype == folded.project.dtype == storage_dtype(problem)
    assert folded.conv_bias.dtype == folded.expand_bias.dtype == folded.project_bias.dtype == np.float32
    for name in ("conv", "expand", "project"):
        weight, bias = getattr(weights, name).folded()
        assert getattr(folded, name).tobytes() == weight.astype(storage_dtype(problem)).tobytes()
        assert getattr(folded, f"{name}_bias").tobytes() == bias.astype(np.float32).tobytes()


def test_random_weights_are_seeded() -> None:
    first, again, other = (pack(PROBLEM, folded_random(PROBLEM, seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_matrices_may_be_1x1_convolutions() -> None:
    weights = ConvFirstWeights.random(PROBLEM)
    as_convs = replace(
        weights,
        expand=replace(weights.expand, weight=np.asarray(weights.expand.weight)[:, :, None, None]),
        project=replace(weights.project, weight=np.asarray(weights.project.weight)[:, :, None, None]),
    )
    assert pack(PROBLEM, fold(PROBLEM, as_convs)).tobytes() == pack(PROBLEM, fold(PROBLEM, weights)).tobytes()


class Tensor:
    """As much of a tensor that tracks gradients as matters: NumPy cannot read it before ``detach``."""

    def __init__(self, values: np.ndarray, attached: bool = True) -> None:
        self.values, self.attached = values, attached

    def detach(self) -> Tensor:
        return Tensor(self.values, attached=False)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self.values


class GpuTensor(Tensor):
    def detach(self) -> Tensor:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def with_conv(**fields: Any) -> ConvFirstWeights:
    weights = ConvFirstWeights.random(PROBLEM)
    return replace(weights, conv=replace(weights.conv, **fields))


def with_bn(**fields: Any) -> ConvFirstWeights:
    weights = ConvFirstWeights.random(PROBLEM)
    assert weights.expand.bn is not None
    return replace(weights, expand=replace(weights.expand, bn=replace(weights.expand.bn, **fields)))


def test_tensors_are_detached() -> None:
    plain = ConvFirstWeights.random(PROBLEM)
    tensors = with_conv(weight=Tensor(np.asarray(plain.conv.weight)))
    assert pack(PROBLEM, fold(PROBLEM, tensors)).tobytes() == pack(PROBLEM, fold(PROBLEM, plain)).tobytes()


@pytest.mark.parametrize("as_kind", [np.float16, np.float64, ml_dtypes.bfloat16, np.int32, list])
def test_any_real_dtype_is_taken(as_kind: Any) -> None:
    weight = np.arange(16 * 72).reshape(16, 8, 3, 3) % 7 - 3
    given = weight.tolist() if as_kind is list else weight.astype(as_kind)
    folded, _ = Conv(given).folded()
    np.testing.assert_array_equal(folded, weight)


NAN_WEIGHT = np.full((16, 8, 3, 3), 0.5)
NAN_WEIGHT[3, 1, 2, 0], NAN_WEIGHT[0, 0, 0, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (with_conv(weight=np.zeros((16, 16, 3, 3))), r"conv.weight must have shape \(16, 8, 3, 3\) .*\(16, 16, 3, 3\)"),
        (with_conv(weight=np.zeros(())), r"conv.weight must have shape .*but got \(\)"),
        (with_conv(bias=np.zeros(8)), r"conv.bias must have shape \(16,\), but got \(8,\)"),
        (with_conv(weight=NAN_WEIGHT), r"conv.weight must be finite, but 1 of 1152 values are NaN and 1 are infinite"),
        (with_conv(weight=np.zeros((16, 8, 3, 3), complex)), "conv.weight must hold real numbers, but got dtype comp"),
        (with_conv(weight=np.full((16, 8, 3, 3), "1")), "conv.weight must hold real numbers, but got dtype <U1"),
        (with_conv(weight=None), r"conv.weight must have shape"),
        (with_conv(weight=[[1.0], [1.0, 2.0]]), "conv.weight must convert to a NumPy array, but list does not"),
        (with_conv(weight=GpuTensor(NAN_WEIGHT)), "GpuTensor does not .*pass a float32 array or tensor in CPU memory"),
        (with_conv(weight=np.full((16, 8, 3, 3), 1e6)), "conv.weight must fit float16 .*1152 of 1152 values overflow"),
        (with_conv(weight=np.full((16, 8, 3, 3), 1e308), bn=BatchNorm(*np.full((4, 16), 1e300))), "must fit float16"),
        (with_conv(bias=np.full(16, 1e300), bn=None), "conv.bias must fit float32 after BatchNorm folding"),
        (
            with_bn(var=np.linspace(-1, 1, 64)),
            "expand.bn.var must be >= 0, but 32 of 64 values are neg",
        ),
        (with_bn(var=np.zeros(64), eps=0), r"expand.bn.eps must be >= 0 and make var \+ eps positive, but got eps=0"),
        (with_bn(eps=-1e-5), "expand.bn.eps must be >= 0"),
        (with_bn(eps=math.nan), "expand.bn.eps must be finite"),
        (with_bn(gamma=np.ones((64, 1))), r"expand.bn.gamma must have shape \(64,\), but got \(64, 1\)"),
        (with_bn(mean=np.full(64, np.nan)), "expand.bn.mean must be finite, but 64 of 64 values are NaN"),
        (replace(with_bn(), project=np.zeros((16, 64))), "project must be a Conv, but got ndarray"),
        ({"conv": None}, "weights must be a ConvFirstWeights, but got dict"),
    ],
)
def test_bad_weights_are_named(weights: Any, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence) as caught:
        fold(PROBLEM, weights)
    assert "; " in str(caught.value)


def test_bfloat16_holds_what_float16_does_not() -> None:
    weights = with_conv(weight=np.full((16, 8, 3, 3), 1e6))
    folded = fold(replace(PROBLEM, dtype="bfloat16"), weights)
    assert np.isfinite(folded.conv.astype(np.float32)).all()
