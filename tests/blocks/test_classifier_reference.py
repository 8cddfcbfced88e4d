"""The NumPy classifier against loops over pixels, channels and classes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layer_programs import DTYPES

from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.reference import float32_forward, layered, reference
from kgen.blocks.classifier.weights import ClassifierWeights, FoldedWeights, fold
from kgen.blocks.layers import STORAGE_DTYPES
from kgen.cases import UNIT_ROUNDOFF
from kgen.errors import ArrayError, WeightsError

PROBLEM = Classifier(3, 3, 5, 32, 21)


def by_loops(problem: Classifier, folded: FoldedWeights, x: np.ndarray, rounded: bool = False) -> np.ndarray:
    """The definition, one number at a time; means and logits rounded to the storage dtype if ``rounded``."""
    logits = np.zeros((len(x), problem.classes))

    def store(value: float) -> float:
        return float(np.float64(value).astype(STORAGE_DTYPES[problem.dtype])) if rounded else value

    def mean(image: int, channel: int) -> float:
        places = itertools.product(range(problem.height), range(problem.width))
        return store(math.fsum(float(x[image, row, column, channel]) for row, column in places) / problem.pixels)

    for image in range(len(x)):
        means = [mean(image, channel) for channel in range(problem.channels)]
        for n in range(problem.classes):
            products = (float(folded.linear[n, channel]) * means[channel] for channel in range(problem.channels))
            logits[image, n] = store(math.fsum([float(folded.linear_bias[n]), *products]))
    return logits


def case(problem: Classifier, images: int | None = None, seed: int = 0) -> tuple[FoldedWeights, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (problem.batch if images is None else images, *problem.x.shape[1:])
    x = rng.standard_normal(shape).astype(problem.x.storage)
    return fold(problem, ClassifierWeights.random(problem, seed)), x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "channels", "classes"), [(3, 5, 32, 21), (1, 1, 16, 1), (7, 2, 48, 16)])
def test_reference_matches_loops(height: int, width: int, channels: int, classes: int, dtype: Any) -> None:
    problem = Classifier(2, height, width, channels, classes, dtype)
    folded, x = case(problem)
    y = reference(problem, folded, x)
    assert y.dtype == np.float64 and y.shape == (2, classes)
    np.testing.assert_allclose(y, by_loops(problem, folded, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layered_rounds_means_and_logits(dtype: Any) -> None:
    problem = replace(PROBLEM, dtype=dtype)
    folded, x = case(problem)
    y = layered(problem, folded, x)
    assert y.dtype == STORAGE_DTYPES[dtype]
    expected = by_loops(problem, folded, x, rounded=True)
    # The order of float64 sums may flip a tie, so all but a few values are the same to the bit.
    assert np.mean(y.astype(float) == expected) > 0.95
    np.testing.assert_allclose(y.astype(float), expected, rtol=2**-6, atol=2**-7)


def error(y: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(y.astype(float) - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_are_of_the_order_of_rounding(dtype: Any) -> None:
    problem = Classifier(4, 7, 7, 64, 100, dtype)
    folded, x = case(problem)
    truth = reference(problem, folded, x)
    y = float32_forward(problem, folded, x)
    assert y.dtype == STORAGE_DTYPES[dtype]
    by_layer, unit = error(layered(problem, folded, x), truth), UNIT_ROUNDOFF[dtype]
    assert 0.2 * unit < error(y, truth) < by_layer < 2 * unit


def test_batch_is_taken_from_x() -> None:
    folded, x = case(PROBLEM, images=5)
    y = reference(PROBLEM, folded, x)
    assert y.shape == (5, 21)
    np.testing.assert_allclose(y[3:4], reference(PROBLEM, folded, x[3:4]), rtol=1e-12)
    assert reference(PROBLEM, folded, x[:0]).shape == (0, 21)


def test_nan_in_one_pixel_reaches_its_image_only() -> None:
    folded, x = case(PROBLEM)
    x[1, 2, 0, 7] = np.nan
    assert np.isnan(reference(PROBLEM, folded, x)).tolist() == [[False] * 21, [True] * 21, [False] * 21]


@pytest.mark.parametrize("size", [1, 7, 14])
def test_random_weights_keep_logits_of_order_one(size: int) -> None:
    problem = Classifier(4, size, size, 64, 50)
    folded, x = case(problem)
    assert 0.3 < reference(problem, folded, x).std() < 3


@pytest.mark.parametrize("run", [reference, layered, float32_forward])
def test_wrong_x_is_refused(run: Any) -> None:
    folded, x = case(PROBLEM)
    with pytest.raises(ArrayError, match=r"x must be float16 of shape \(n, 3, 5, 32\) for .*\(3, 5, 3, 32\); convert"):
        run(PROBLEM, folded, x.transpose(0, 2, 1, 3))
    with pytest.raises(ArrayError, match="x must be float16 of shape"):
        run(PROBLEM, folded, x[0])
    with pytest.raises(ArrayError, match="but got float32 of shape"):
        run(PROBLEM, folded, x.astype(np.float32))
    with pytest.raises(WeightsError, match="folded linear must be float16 of shape"):
        run(replace(PROBLEM, classes=16), folded, x)
