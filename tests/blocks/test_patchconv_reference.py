"""The NumPy layer against loops over patches and taps."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layer_programs import ACTIVATIONS, DTYPES
from test_convfirst_reference import activate

from kgen.blocks.layers import STORAGE_DTYPES, Conv
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.patchconv.reference import float32_forward, layered, reference
from kgen.blocks.patchconv.weights import FoldedWeights, PatchConvWeights, fold
from kgen.cases import UNIT_ROUNDOFF
from kgen.errors import ArrayError, WeightsError

LAYER = PatchConv(2, 5, 7, 16, 32)
LINEAR = PatchConv(2, 3, 4, 32, 32, 1, residual=True)
IMAGE = PatchConv(2, 6, 9, 3, 16, 4)
# Whole patches, and 1 to 3 rows and columns that fill none.
SHAPES = ((4, 8), (4, 9), (7, 4), (5, 6))


def by_loops(
    problem: PatchConv, taps: np.ndarray, bias: np.ndarray, x: np.ndarray, rounded: bool = False
) -> np.ndarray:
    """The definition with weights (outputs, channels, patch, patch), one number at a time; rounded as layers are."""
    size = problem.patch
    y = np.zeros((len(x), problem.height // size, problem.width // size, problem.outputs))

    def store(value: float) -> float:
        return float(np.float64(value).astype(STORAGE_DTYPES[problem.dtype])) if rounded else value

    def pixel(image: int, row: int, column: int, channel: int) -> float:
        at = (image, channel, row, column) if problem.order == "nchw" else (image, row, column, channel)
        return float(x[at])

    for image, row, column, n in itertools.product(*map(range, y.shape)):
        value = float(bias[n])
        for c, down, right in itertools.product(range(problem.channels), range(size), range(size)):
            value += float(taps[n, c, down, right]) * pixel(image, row * size + down, column * size + right, c)
        value = store(activate(problem.activation, store(value)))
        y[image, row, column, n] = store(value + pixel(image, row, column, n)) if problem.residual else value
    return y


def case(problem: PatchConv, images: int | None = None, seed: int = 0) -> tuple[FoldedWeights, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (problem.batch if images is None else images, *problem.x.views[0].shape[1:])
    if problem.pixels == "uint8":
        x = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        x = rng.standard_normal(shape).astype(problem.x.storage)
    return fold(problem, PatchConvWeights.random(problem, seed)), x


def taps_of(problem: PatchConv, seed: int = 0) -> tuple[np.ndarray, np.ndarray, FoldedWeights]:
    """Weights and biases that folding does not change, but for the white of bytes; and the folded ones."""
    rng, size = np.random.default_rng(seed), problem.patch
    storage, white = STORAGE_DTYPES[problem.dtype], 256 if problem.pixels == "uint8" else 1
    shape = (problem.outputs, problem.channels, size, size)
    taps = (rng.standard_normal(shape) / np.sqrt(problem.inputs)).astype(storage).astype(float) / white
    bias = rng.standard_normal(problem.outputs).astype(np.float32)
    folded = fold(problem, PatchConvWeights(Conv(taps * (255 if white > 1 else 1), bias)))
    return taps, bias, folded


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("problem", [LAYER, LINEAR], ids=["2x2", "linear"])
def test_reference_matches_loops(problem: PatchConv, activation: Any, dtype: Any) -> None:
    problem = replace(problem, activation=activation, dtype=dtype, batch=1)
    (taps, bias, folded), (_, x) = taps_of(problem), case(problem)
    y = reference(problem, folded, x)
    assert y.dtype == np.float64 and y.shape == problem.y.shape
    np.testing.assert_allclose(y, by_loops(problem, taps, bias, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ["nhwc", "nchw"])
@pytest.mark.parametrize("pixels", ["storage", "uint8"])
@pytest.mark.parametrize(("channels", "patch"), [(1, 1), (3, 2), (4, 2), (3, 4)])
def test_reference_matches_loops_on_images(channels: int, patch: Any, pixels: Any, order: Any, shape: Any) -> None:
    problem = PatchConv(2, *shape, channels, 16, patch, pixels=pixels, order=order, activation="silu")
    (taps, bias, folded), (_, x) = taps_of(problem), case(problem)
    # What bytes are divided by is not a power of two, so that their weights are rounded.
    tolerance = 1e-12 if pixels == "storage" else 2e-3
    np.testing.assert_allclose(
        reference(problem, folded, x), by_loops(problem, taps, bias, x), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_matches_loops_where_patches_leave_a_rest(patch: Any, shape: tuple[int, int]) -> None:
    problem = PatchConv(2, *shape, 16, 16, patch)
    (taps, bias, folded), (_, x) = taps_of(problem), case(problem)
    y = reference(problem, folded, x)
    assert y.shape == (2, shape[0] // patch, shape[1] // patch, 16)
    np.testing.assert_allclose(y, by_loops(problem, taps, bias, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pixels", ["storage", "uint8"])
def test_planes_are_the_same_image(pixels: Any) -> None:
    interleaved = replace(IMAGE, pixels=pixels)
    planes = replace(interleaved, order="nchw")
    weights = PatchConvWeights.random(interleaved)
    _, x = case(interleaved)
    in_planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(
        reference(planes, fold(planes, weights), in_planes),
        reference(interleaved, fold(interleaved, weights), x),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("problem", [LAYER, LINEAR, IMAGE], ids=["2x2", "linear", "image"])
def test_layered_rounds_every_intermediate(problem: PatchConv, dtype: Any) -> None:
    problem = replace(problem, dtype=dtype, activation="silu")
    (taps, bias, folded), (_, x) = taps_of(problem), case(problem)
    y = layered(problem, folded, x)
    assert y.dtype == STORAGE_DTYPES[dtype]
    expected = by_loops(problem, taps, bias, x, rounded=True)
    # The order of float64 sums may flip a tie, so all but a few values are the same to the bit.
    assert np.mean(y.astype(float) == expected) > 0.98
    np.testing.assert_allclose(y.astype(float), expected, rtol=2**-6, atol=2**-7)


def error(y: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(y.astype(float) - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("problem", [LAYER, LINEAR, replace(IMAGE, pixels="uint8")], ids=["2x2", "linear", "bytes"])
def test_errors_are_of_the_order_of_rounding(problem: PatchConv, activation: Any, dtype: Any) -> None:
    problem = replace(problem, activation=activation, dtype=dtype)
    folded, x = case(problem)
    truth = reference(problem, folded, x)
    y = float32_forward(problem, folded, x)
    assert y.dtype == STORAGE_DTYPES[dtype]
    by_layer, unit = error(layered(problem, folded, x), truth), UNIT_ROUNDOFF[dtype]
    assert 0.2 * unit < error(y, truth) <= by_layer * (1 + 1e-3)
    assert by_layer < 2 * unit


def test_batch_is_taken_from_x() -> None:
    folded, x = case(LAYER, images=5)
    y = reference(LAYER, folded, x)
    assert y.shape == (5, 2, 3, 32)
    np.testing.assert_allclose(y[3:4], reference(LAYER, folded, x[3:4]), rtol=1e-12)
    assert reference(LAYER, folded, x[:0]).shape == (0, 2, 3, 32)


@pytest.mark.parametrize("problem", [LAYER, replace(IMAGE, order="nchw")], ids=["nhwc", "nchw"])
def test_nan_in_one_pixel_reaches_its_patch_only(problem: PatchConv) -> None:
    folded, x = case(problem)
    view = x.transpose(0, 2, 3, 1) if problem.order == "nchw" else x
    view[1, problem.patch - 1, problem.patch, 0] = np.nan
    view[0, -1, -1] = np.nan  # fills no patch
    touched = np.isnan(reference(problem, folded, x)).any(axis=-1)
    assert np.argwhere(touched).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("problem", [LAYER, LINEAR, IMAGE, replace(IMAGE, pixels="uint8")], ids=str)
def test_random_weights_keep_activations_of_order_one(problem: PatchConv) -> None:
    folded, x = case(replace(problem, batch=8))
    assert 0.3 < reference(problem, folded, x).std() < 3


@pytest.mark.parametrize("run", [reference, layered, float32_forward])
def test_wrong_x_is_refused(run: Any) -> None:
    folded, x = case(LAYER)
    with pytest.raises(ArrayError, match=r"x must be float16 of shape \(n, 5, 7, 16\) for .*\(2, 7, 5, 16\); convert"):
        run(LAYER, folded, x.transpose(0, 2, 1, 3))
    with pytest.raises(ArrayError, match="x must be float16 of shape"):
        run(LAYER, folded, x[0])
    with pytest.raises(ArrayError, match="but got float32 of shape"):
        run(LAYER, folded, x.astype(np.float32))
    with pytest.raises(WeightsError, match="folded conv must be float16 of shape"):
        run(replace(LAYER, outputs=16), folded, x)


def test_planes_are_asked_for_by_their_shape() -> None:
    planes = replace(IMAGE, order="nchw", pixels="uint8")
    folded, x = case(planes)
    with pytest.raises(ArrayError, match=r"x must be uint8 of shape \(n, 3, 6, 9\) for .*\(2, 6, 9, 3\)"):
        reference(planes, folded, x.transpose(0, 2, 3, 1))
