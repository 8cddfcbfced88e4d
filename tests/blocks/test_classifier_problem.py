"""Classifier: what it accepts, what it refuses and in which words, and what it derives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgen.blocks.classifier.problem import Classifier
from kgen.errors import ProblemError

NOT_POSITIVE_INTEGERS = (
    st.integers(max_value=0) | st.floats() | st.booleans() | st.none() | st.text(max_size=3) | st.tuples(st.integers())
)
PROBLEM = Classifier(5, 3, 7, 64, 37, "bfloat16")


def refusal(**fields: Any) -> str:
    with pytest.raises(ProblemError) as caught:
        Classifier(**({"batch": 1, "height": 7, "width": 7, "channels": 64} | fields))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "; " in sentence, "every refusal ends in a next step"
    return sentence


@given(
    st.builds(
        Classifier,
        *[st.integers(1, 4096)] * 3,
        st.integers(1, 64).map(lambda n: 16 * n),
        st.integers(1, 65536),
        st.sampled_from(("float16", "bfloat16")),
    )
)
def test_any_legal_problem_round_trips_through_json(problem: Classifier) -> None:
    again = Classifier(**json.loads(json.dumps(problem.to_json())))
    assert again == problem
    assert hash(again) == hash(problem)


@given(st.sampled_from(["batch", "height", "width", "channels", "classes"]), NOT_POSITIVE_INTEGERS)
def test_sizes_must_be_positive_integers(name: str, value: object) -> None:
    sentence = refusal(**{name: value})
    assert sentence.startswith(f"{name} must be an integer >= 1, but got {name}={value!r}")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dtype": "float32"}, "dtype must be one of float16, bfloat16, but got dtype='float32'; choose one of them"),
        ({"channels": 8}, "channels must be a multiple of 16 up to 1024, but got channels=8; use 16"),
        ({"channels": 100}, "channels must be a multiple of 16 up to 1024, but got channels=100; use 112"),
        ({"channels": 1040}, "channels must be a multiple of 16 up to 1024, but got channels=1040; use 1024"),
        ({"classes": 65537}, "classes must be at most 65536, but got classes=65537; use a linear layer beside it"),
    ],
    ids=str,
)
def test_a_broken_rule_is_named_with_values_and_next_step(fields: dict[str, Any], sentence: str) -> None:
    assert refusal(**fields) == sentence


def test_a_thousand_classes_are_the_default() -> None:
    assert Classifier(1, 7, 7, 768) == Classifier(1, 7, 7, 768, 1000, "float16")


def test_tensors_are_images_and_vectors() -> None:
    assert (PROBLEM.x.shape, PROBLEM.x.dtype, PROBLEM.x.order) == ((5, 3, 7, 64), "bfloat16", "nhwc")
    assert (PROBLEM.y.shape, PROBLEM.y.dtype, PROBLEM.y.order) == ((5, 1, 1, 37), "bfloat16", "nc")
    assert PROBLEM.y.views[0].shape == (5, 37)
    assert PROBLEM.pixels == 21


def test_flops_count_sums_and_two_for_each_product() -> None:
    assert PROBLEM.flops == 5 * 21 * 64 + 2 * 5 * 64 * 37


def test_min_dram_bytes_count_x_weights_and_logits_once() -> None:
    assert PROBLEM.min_dram_bytes == 2 * 5 * 21 * 64 + 2 * 64 * 37 + 4 * 37 + 2 * 5 * 37


def test_sizes_are_channels_classes_pixels_and_batch() -> None:
    assert PROBLEM.sizes == (64, 37, 21, 5)


def test_text_names_what_tells_two_problems_apart() -> None:
    assert str(PROBLEM) == "classifier(batch 5, 3x7, 64 channels, 37 classes, bfloat16)"
