from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kgen.blocks.convfirst import Problem, layered, reference
from kgen.cases import Errors, _distinct_images, make_case
from kgen.errors import VerificationError

PROBLEM = Problem(batch=9, height=5, width=4, channels=16, expansion=2)


def errors_of(case, output):
    """Errors of a whole batch's output in float64."""
    difference = (output - case.reference[case.index]).reshape(len(case.index), -1)
    return case.errors(np.square(difference).sum(axis=1), abs(difference).max(axis=1), case.index)


def test_a_case_repeats_few_distinct_images_in_mixed_order():
    case = make_case(PROBLEM)
    assert len(case.images) == 4
    assert len(case.index) == 9
    assert set(case.index) == {0, 1, 2, 3}
    assert not (case.index[:-1] == case.index[1:]).all()
    assert case.images.dtype == np.float16
    np.testing.assert_array_equal(case.reference, reference(PROBLEM, case.folded, case.images))


def test_equal_seeds_give_equal_cases_and_others_do_not():
    one, same, other = make_case(PROBLEM, 1), make_case(PROBLEM, 1), make_case(PROBLEM, 2)
    np.testing.assert_array_equal(one.images, same.images)
    np.testing.assert_array_equal(one.packed, same.packed)
    assert not np.array_equal(one.images, other.images)


def test_a_batch_of_one_is_one_image():
    assert make_case(replace(PROBLEM, batch=1)).index.tolist() == [0]


@pytest.mark.parametrize(("size", "channels", "distinct"), [(14, 64, 4), (28, 512, 3), (56, 1024, 2)])
def test_costly_problems_get_fewer_distinct_images(size, channels, distinct):
    assert _distinct_images(Problem(batch=64, height=size, width=size, channels=channels, expansion=8)) == distinct


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("activation", ["silu", "relu", "identity"])
def test_the_layered_computation_passes_its_own_bound(dtype, activation):
    case = make_case(replace(PROBLEM, dtype=dtype, activation=activation))
    by_layer = layered(case.problem, case.folded, case.images).astype(np.float64)[case.index]
    errors = errors_of(case, by_layer)
    assert 0 < errors.output <= errors.image
    case.judge(errors)


def test_errors_of_known_differences():
    case = make_case(PROBLEM)
    output = case.reference[case.index].copy()
    output[3, 2, 1, 0] += 0.5
    errors = errors_of(case, output)
    truth = case.reference[case.index]
    assert errors.output == pytest.approx(0.5 / np.linalg.norm(truth))
    assert errors.image == pytest.approx(0.5 / np.linalg.norm(truth[3]))
    assert errors.element == pytest.approx(0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 100.0])
def test_one_bad_element_fails(value):
    case = make_case(PROBLEM)
    output = case.reference[case.index].copy()
    output[8, 4, 3, 15] = value
    with pytest.raises(VerificationError, match="against float64 must be at most"):
        case.judge(errors_of(case, output))


def test_swapped_images_fail():
    case = make_case(PROBLEM)
    swapped = np.roll(case.reference[case.index], 1, axis=0)
    with pytest.raises(VerificationError, match="relative error"):
        case.judge(errors_of(case, swapped))


@pytest.mark.parametrize("field", ["output", "image", "element"])
def test_each_bound_holds_by_itself(field):
    case = make_case(PROBLEM)
    zero = Errors(0.0, 0.0, 0.0)
    limit = getattr(case.bound, field)
    case.judge(replace(zero, **{field: limit}))
    with pytest.raises(VerificationError):
        case.judge(replace(zero, **{field: np.nextafter(limit, 1)}))
    with pytest.raises(VerificationError):
        case.judge(replace(zero, **{field: float("nan")}))


def test_the_bound_is_never_below_the_rounding_of_the_output():
    case = make_case(replace(PROBLEM, dtype="bfloat16", activation="identity"))
    assert case.bound.output >= 2.0**-8
    assert case.bound.element >= 2 * 2.0**-8 * abs(case.reference).max()
