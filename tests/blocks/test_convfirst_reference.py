"""The NumPy block against loops over pixels, channels and taps, and erf against the standard library's."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgen.blocks.activations import erf
from kgen.blocks.convfirst.float8 import quantise, to_e4m3
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.reference import float32_forward, layered, reference
from kgen.blocks.convfirst.weights import ConvFirstWeights, FoldedWeights, fold, storage_dtype
from kgen.errors import ArrayError, WeightsError

ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "identity")


def activate(name: str, value: float) -> float:
    if name == "silu":
        return value / (1 + math.exp(-value))
    if name == "relu":
        return max(value, 0.0)
    if name == "gelu":
        return 0.5 * value * math.erfc(-value / math.sqrt(2))
    if name == "gelu_tanh":
        return 0.5 * value * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
    return value


def by_loops(problem: ConvFirst, folded: FoldedWeights, x: np.ndarray, rounded: bool = False) -> np.ndarray:
    """The definition, one number at a time; every intermediate rounded to the storage dtype if ``rounded``."""
    conv, expand, project = (matrix.astype(float) for matrix in (folded.conv, folded.expand, folded.project))
    y = np.zeros(x.shape)

    def store(value: float) -> float:
        return float(np.float64(value).astype(storage_dtype(problem))) if rounded else value

    def convolved(image: int, row: int, column: int, channel: int) -> float:
        total = float(folded.conv_bias[channel])
        for ci, kh, kw in itertools.product(range(8), range(3), range(3)):
            r, c = row + kh - 1, column + kw - 1
            if 0 <= r < problem.height and 0 <= c < problem.width:
                total += conv[channel, ci, kh, kw] * float(x[image, r, c, channel // 8 * 8 + ci])
        return store(total)

    for image, row, column in itertools.product(range(x.shape[0]), range(problem.height), range(problem.width)):
        z = np.array([convolved(image, row, column, channel) for channel in range(problem.channels)])
        before = [store(float(expand[n] @ z) + float(folded.expand_bias[n])) for n in range(problem.hidden)]
        hidden = np.array([store(activate(problem.activation, value)) for value in before])
        for n in range(problem.channels):
            value = store(float(project[n] @ hidden) + float(folded.project_bias[n]))
            y[image, row, column, n] = store(value + float(x[image, row, column, n])) if problem.residual else value
    return y


def case(problem: ConvFirst, images: int | None = None, seed: int = 0) -> tuple[FoldedWeights, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (problem.batch if images is None else images, *problem.x.shape[1:])
    x = rng.standard_normal(shape).astype(storage_dtype(problem))
    return fold(problem, ConvFirstWeights.random(problem, seed=seed)), x


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_reference_matches_loops(activation: Any, dtype: Any) -> None:
    problem = ConvFirst(2, 2, 3, 32, expansion=1.5, activation=activation, dtype=dtype)
    folded, x = case(problem)
    y = reference(problem, folded, x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, by_loops(problem, folded, x), rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2), st.integers(1, 4), st.integers(1, 4), st.sampled_from([(16, 1), (32, 1.5)]), st.booleans())
def test_reference_matches_loops_on_any_shape(
    images: int, height: int, width: int, channels: tuple[int, float], residual: bool
) -> None:
    problem = ConvFirst(1, height, width, channels[0], expansion=channels[1], residual=residual)
    folded, x = case(problem, images=images)
    np.testing.assert_allclose(reference(problem, folded, x), by_loops(problem, folded, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layered_rounds_every_intermediate(dtype: Any, residual: bool) -> None:
    problem = ConvFirst(1, 3, 2, 16, dtype=dtype, residual=residual)
    folded, x = case(problem)
    y = layered(problem, folded, x)
    assert y.dtype == storage_dtype(problem)
    expected = by_loops(problem, folded, x, rounded=True)
    # The order of float64 sums may flip a tie, so all but a few values are the same to the bit.
    assert np.mean(y.astype(float) == expected) > 0.98
    np.testing.assert_allclose(y.astype(float), expected, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32_path_is_closer_to_the_truth_than_layered(activation: Any, dtype: Any) -> None:
    problem = ConvFirst(2, 5, 4, 48, activation=activation, dtype=dtype)
    folded, x = case(problem)
    truth = reference(problem, folded, x)
    y = float32_forward(problem, folded, x)
    assert y.dtype == storage_dtype(problem)
    error = np.square(y.astype(float) - truth).mean()
    assert 0 < error < np.square(layered(problem, folded, x).astype(float) - truth).mean()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layered_float8_multiplies_the_very_bytes_that_kernels_get(dtype: Any, residual: bool) -> None:
    problem = ConvFirst(2, 3, 4, 64, expansion=2, dtype=dtype, residual=residual, matmul="float8")
    folded, x = case(problem)
    float8 = quantise(folded)
    z = reference(
        ConvFirst(2, 3, 4, 64, expansion=1, dtype=dtype, residual=False, activation="identity"),
        replace(
            folded,
            expand=np.eye(64, dtype=folded.expand.dtype),
            expand_bias=np.zeros(64, np.float32),
            project=np.eye(64, dtype=folded.expand.dtype),
            project_bias=np.zeros(64, np.float32),
        ),
        x,
    )
    z8 = to_e4m3(z * float8.z_scale).astype(float)
    before = (z8 @ float8.expand.astype(float).T) * float8.expand_scale + folded.expand_bias
    before = before.astype(storage_dtype(problem)).astype(float)
    h8 = to_e4m3(before / (1 + np.exp(-before)) * float8.hidden_scale).astype(float)
    y = (h8 @ float8.project.astype(float).T) * float8.project_scale + folded.project_bias
    y = y.astype(storage_dtype(problem)).astype(float) + (x.astype(float) if residual else 0)
    by_layer = layered(problem, folded, x).astype(float)
    np.testing.assert_allclose(by_layer, y.astype(storage_dtype(problem)).astype(float), rtol=2**-7, atol=2**-8)


def test_float8_changes_no_truth_and_costs_accuracy() -> None:
    problem = ConvFirst(2, 5, 4, 64)
    float8 = replace(problem, matmul="float8")
    folded, x = case(problem)
    truth = reference(problem, folded, x)
    np.testing.assert_array_equal(reference(float8, folded, x), truth)

    def error(y: np.ndarray) -> float:
        return float(np.linalg.norm(y.astype(float) - truth) / np.linalg.norm(truth))

    assert error(layered(problem, folded, x)) < 1e-3
    assert 0.01 < error(layered(float8, folded, x)) < 0.05
    # Blocks without a GPU quantise, too.
    assert error(float32_forward(float8, folded, x)) == pytest.approx(error(layered(float8, folded, x)), rel=0.05)


def test_chunks_of_images_and_pixels_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(reference.__module__)  # the package exports a function of the module's name
    problem = ConvFirst(5, 3, 4, 16)
    folded, x = case(problem)
    whole = reference(problem, folded, x)
    for values in (1, 7 * 64, 2 * 12 * 16 * 9):
        monkeypatch.setattr(module, "_CHUNK_VALUES", values)
        np.testing.assert_allclose(reference(problem, folded, x), whole, rtol=1e-13, atol=1e-13)


def test_batch_is_taken_from_x() -> None:
    problem = ConvFirst(2, 3, 4, 16)
    folded, x = case(problem, images=5)
    np.testing.assert_allclose(reference(problem, folded, x)[3:4], reference(problem, folded, x[3:4]), rtol=1e-12)


def test_nan_in_one_pixel_reaches_its_neighbours_only() -> None:
    problem = ConvFirst(1, 5, 5, 16)
    folded, x = case(problem)
    x[0, 0, 0, 0] = np.nan
    touched = np.isnan(reference(problem, folded, x)).any(axis=-1)[0]
    expected = np.zeros((5, 5), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(touched, expected)


def test_random_weights_keep_activations_of_order_one() -> None:
    problem = ConvFirst(1, 8, 8, 128, activation="identity", residual=False)
    folded, x = case(problem)
    assert 0.3 < reference(problem, folded, x).std() < 3


@pytest.mark.parametrize("run", [reference, layered, float32_forward])
def test_wrong_x_is_refused(run: Any) -> None:
    problem = ConvFirst(2, 3, 4, 16)
    folded, x = case(problem)
    with pytest.raises(ArrayError, match=r"x must be float16 of shape \(n, 3, 4, 16\) .* shape \(2, 4, 3, 16\); "):
        run(problem, folded, x.transpose(0, 2, 1, 3))
    with pytest.raises(ArrayError, match=r"of shape \(n, 3, 4, 16\) .* of shape \(3, 4, 16\)"):
        run(problem, folded, x[0])
    with pytest.raises(ArrayError, match=r"x must be float16 .* but got float32 of shape"):
        run(problem, folded, x.astype(np.float32))
    with pytest.raises(WeightsError, match="folded expand must be float16 of shape"):
        run(ConvFirst(2, 3, 4, 16, expansion=2), folded, x)


def test_erf_matches_the_standard_library() -> None:
    edges = [0.0, -0.0, 0.46875, 4.0, 5e-324, 1e-300, 1e300, math.inf, *np.nextafter([0.46875, 4.0], 9)]
    values = np.concatenate([np.linspace(-7, 7, 20001), edges, np.negative(edges), np.geomspace(1e-20, 1, 500)])
    expected = np.array([math.erf(value) for value in values])
    np.testing.assert_allclose(erf(values), expected, rtol=1e-15, atol=0)
    assert math.isnan(erf(np.array([math.nan]))[0])
    assert math.copysign(1, erf(-0.0)) == -1


def test_erf_keeps_float32() -> None:
    values = np.linspace(-5, 5, 1001, dtype=np.float32)
    result = erf(values)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [math.erf(float(value)) for value in values], rtol=1e-6)
