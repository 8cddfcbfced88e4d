"""Test cases: seeded inputs with their float64 truth, and the rule by which a kernel's output passes.

The rule follows the float64 reference, never a fixed absolute bound: an output passes when its error is at most twice
that of the same block computed layer by layer with every intermediate rounded to the storage dtype, and to e4m3 what
float8 matmuls take; the reference itself is never quantised.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.errors import VerificationError
from kgen.tensors import Tensor

Array = np.ndarray[Any, Any]

FACTOR = 2.0
UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
_DISTINCT_IMAGES = 4
_REFERENCE_FLOPS = 2e10  # what the float64 reference may cost: a few seconds on one core


@dataclass(frozen=True)
class Errors:
    """Errors of an output against float64.

    ``output`` is the relative L2 error ||out - ref|| / ||ref|| of the whole output, ``image`` the largest relative L2
    error of one image, and ``element`` the largest absolute error of one element.
    """

    output: float
    image: float
    element: float


@dataclass(frozen=True, eq=False)
class Case:
    """A problem with seeded weights and inputs.

    A batch is made of few distinct ``images`` of x, (d, height, width, channels) or in x's order: image n of the batch
    is ``images[index[n]]``, and ``reference`` (float64) holds the truth of the distinct ones only. ``bound`` is the
    largest error that passes.
    """

    problem: KernelProblem
    folded: Any
    packed: Array
    images: Array
    index: Array
    reference: Array
    bound: Errors

    def errors(self, squares: Array, largest: Array, index: Array) -> Errors:
        """Errors from each image's sum of squared differences and largest difference; ``index`` as in the class."""
        return _errors(self.reference, squares, largest, index)

    def judge(self, errors: Errors) -> None:
        """Raise unless every error is within its bound; NaN never is.

        Raises:
            VerificationError: the output is wrong.
        """
        for name, value, bound in zip(
            ("output", "image", "element"), astuple(errors), astuple(self.bound), strict=True
        ):
            if not value <= bound:
                kind = {"output": "relative error", "image": "relative error of the worst image"}
                raise VerificationError(
                    f"the {kind.get(name, 'largest absolute error')} against float64 must be at most {bound:.3g} "
                    f"(twice that of computing layer by layer), but got {value:.3g} for {self.problem}; "
                    "this config's kernel computes something else"
                )


def make_case(problem: KernelProblem, seed: int = 0) -> Case:
    """A case with random weights and normally distributed inputs; equal seeds give equal cases."""
    rng = np.random.default_rng(seed)
    block = family(problem.family)
    folded = block.fold(problem, block.Weights.random(problem, seed))
    distinct = _distinct_images(problem)
    images = _random(rng, (distinct, *problem.x.views[0].shape[1:]), problem.x)
    # Every distinct image occurs, in random order, so that neighbours differ and a mixed-up image shows.
    index = np.concatenate([np.arange(distinct), rng.integers(0, distinct, problem.batch - distinct)])
    rng.shuffle(index)
    truth = block.reference(problem, folded, images)
    bound = _bound(problem, truth, block.layered(problem, folded, images), index)
    return Case(problem, folded, block.pack(problem, folded), images, index, truth, bound)


cached_case = lru_cache(maxsize=4)(make_case)
"""The case, kept for the candidates that follow."""


def _random(rng: np.random.Generator, shape: tuple[int, ...], x: Tensor) -> Array:
    if x.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32).astype(x.storage)


def _distinct_images(problem: KernelProblem) -> int:
    affordable = int(_REFERENCE_FLOPS * problem.batch / problem.flops)
    return min(problem.batch, max(2, min(_DISTINCT_IMAGES, affordable)))


def _bound(problem: KernelProblem, truth: Array, by_layer: Array, index: Array) -> Errors:
    """Twice the layered computation's error, or what rounding the truth once may cost where that is more.

    The latter binds for a handful of elements only, whose layered errors can be small by luck: a correctly rounded
    output is off by half the unit roundoff in the mean, and by the unit roundoff in the worst element.
    """
    difference = (by_layer.astype(np.float64) - truth).reshape(len(truth), -1)
    squares = np.square(difference).sum(axis=1)[index]
    yardstick = _errors(truth, squares, abs(difference).max(axis=1)[index], index)
    if not np.isfinite(astuple(yardstick)).all():
        raise VerificationError(
            f"test data must stay finite in {problem.dtype}, but the layered computation overflows for {problem}; "
            "this is a defect of kgen's weight scaling, please report it"
        )
    unit = UNIT_ROUNDOFF[problem.dtype]
    return Errors(
        output=FACTOR * max(yardstick.output, unit / 2),
        image=FACTOR * max(yardstick.image, unit / 2),
        element=FACTOR * max(yardstick.element, unit * float(abs(truth).max())),
    )


def _errors(truth: Array, squares: Array, largest: Array, index: Array) -> Errors:
    norms = np.square(truth.reshape(len(truth), -1)).sum(axis=1)[index]
    with np.errstate(invalid="ignore", divide="ignore"):
        output = np.sqrt(squares.sum() / norms.sum())
        image = np.sqrt(squares / norms).max()  # NaN, if any, is the maximum
    return Errors(float(output), float(image), float(largest.max()))
