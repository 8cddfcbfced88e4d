"""ConvFirst: what it accepts, what it refuses and in which words, and what it derives."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.errors import KgenError, ProblemError

SIZES = st.integers(1, 4096)
CHANNELS = st.integers(1, 64).map(lambda n: 16 * n)
ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "identity")
DTYPES = ("float16", "bfloat16")
NOT_POSITIVE_INTEGERS = (
    st.integers(max_value=0) | st.floats() | st.booleans() | st.none() | st.text(max_size=3) | st.tuples(st.integers())
)


@st.composite
def problems(draw: st.DrawFn) -> ConvFirst:
    channels = draw(CHANNELS)
    hidden = draw(st.integers(channels // 16, channels // 2)) * 16
    return ConvFirst(
        batch=draw(SIZES),
        height=draw(SIZES),
        width=draw(SIZES),
        channels=channels,
        expansion=hidden / channels,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        dtype=draw(st.sampled_from(DTYPES)),
        residual=draw(st.booleans()),
    )


def refusal(**fields: Any) -> str:
    with pytest.raises(ProblemError) as caught:
        ConvFirst(**({"batch": 1, "height": 7, "width": 7, "channels": 64} | fields))
    sentence = str(caught.value)
    assert isinstance(caught.value, KgenError)
    assert "\n" not in sentence
    assert "; " in sentence, "every refusal ends in a next step"
    return sentence


@given(problems())
def test_any_legal_problem_has_whole_hidden_channels_and_round_trips_through_json(problem: ConvFirst) -> None:
    assert problem.hidden % 16 == 0
    assert math.isclose(problem.hidden, problem.expansion * problem.channels)
    assert problem.x.shape == (problem.batch, problem.height, problem.width, problem.channels)
    again = ConvFirst(**json.loads(json.dumps(problem.to_json())))
    assert again == problem
    assert hash(again) == hash(problem)
    assert again.hidden == problem.hidden


@given(st.sampled_from(["batch", "height", "width", "channels"]), NOT_POSITIVE_INTEGERS)
def test_sizes_must_be_positive_integers(name: str, value: object) -> None:
    sentence = refusal(**{name: value})
    assert sentence.startswith(f"{name} must be an integer >= 1, but got {name}={value!r}")


@given(st.integers(1, 10**30).filter(lambda n: n % 16 or n > 1024))
def test_channels_must_be_a_multiple_of_16_up_to_1024(channels: int) -> None:
    sentence = refusal(channels=channels)
    assert f"channels={channels};" in sentence
    nearest = int(sentence.rsplit(" ", 1)[1])
    assert ConvFirst(1, 7, 7, nearest).channels == nearest
    assert abs(nearest - channels) == min(abs(legal - channels) for legal in range(16, 1025, 16))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, 0.99, 8.01, -4, True, "4", None, 10**400])
def test_expansion_must_be_a_number_from_1_to_8(value: object) -> None:
    sentence = refusal(expansion=value)
    assert sentence.startswith("expansion must be a number from 1 to 8, but got expansion=")


@given(CHANNELS, st.floats(1, 8))
def test_hidden_must_be_a_multiple_of_16(channels: int, expansion: float) -> None:
    hidden = expansion * channels
    if min(hidden % 16, 16 - hidden % 16) < 1e-6:
        assert ConvFirst(1, 7, 7, channels, expansion=expansion).hidden == round(hidden)
    else:
        sentence = refusal(channels=channels, expansion=expansion)
        assert "must be a multiple of 16" in sentence
        suggested = int(sentence.rsplit(" ", 1)[1])
        assert ConvFirst(1, 7, 7, channels, expansion=suggested).hidden == suggested * channels


def test_expansion_one_and_a_half_needs_channels_that_make_whole_fragments() -> None:
    assert ConvFirst(1, 7, 7, 32, expansion=1.5).hidden == 48
    assert "expansion=1.5 with channels=16 (hidden=24)" in refusal(channels=16, expansion=1.5)


@pytest.mark.parametrize(("expansion", "channels", "hidden"), [(1.1, 160, 176), (4 / 3, 48, 64), (16 / 3, 48, 256)])
def test_expansions_without_an_exact_float_are_legal(expansion: float, channels: int, hidden: int) -> None:
    assert ConvFirst(1, 7, 7, channels, expansion=expansion).hidden == hidden


@given(st.text(max_size=12).filter(lambda name: name not in ACTIVATIONS) | st.none() | st.integers())
def test_unknown_activations_are_refused_with_the_choices(activation: object) -> None:
    sentence = refusal(activation=activation)
    assert f"got activation={activation!r};" in sentence
    assert all(choice in sentence for choice in ACTIVATIONS)


@given(st.text(max_size=12).filter(lambda name: name not in DTYPES) | st.none() | st.just(["float16"]))
def test_unknown_dtypes_are_refused_with_the_choices(dtype: object) -> None:
    sentence = refusal(dtype=dtype)
    assert f"got dtype={dtype!r};" in sentence
    assert all(choice in sentence for choice in DTYPES)


@pytest.mark.parametrize("residual", [0, 1, None, "yes"])
def test_residual_must_be_a_bool(residual: object) -> None:
    assert f"got residual={residual!r};" in refusal(residual=residual)


def test_an_integer_valued_float_expansion_is_the_same_problem() -> None:
    whole, floating = ConvFirst(1, 7, 7, 64, expansion=4), ConvFirst(1, 7, 7, 64, expansion=4.0)
    assert whole == floating
    assert hash(whole) == hash(floating)
    assert json.dumps(whole.to_json()) == json.dumps(floating.to_json())
    assert '"expansion": 4,' in json.dumps(floating.to_json())


def test_flops_count_a_direct_convolution() -> None:
    problem = ConvFirst(2, 3, 5, 32, expansion=1.5)
    per_pixel = 32 * 8 * 9 + 32 * 48 + 48 * 32
    assert problem.flops == 2 * (2 * 3 * 5) * per_pixel


def test_min_dram_bytes_count_activations_and_weights_once() -> None:
    problem = ConvFirst(2, 3, 5, 32, expansion=1.5)
    activations = 2 * (2 * 3 * 5 * 32) * 2
    weights = (32 * 8 * 9 + 2 * 32 * 48) * 2 + (32 + 48 + 32) * 4
    assert problem.min_dram_bytes == activations + weights


def test_float8_matmuls_are_asked_for_by_name() -> None:
    plain = ConvFirst(2, 3, 5, 64)
    assert plain.matmul == "storage"
    float8 = ConvFirst(2, 3, 5, 64, matmul="float8")
    assert float8 != plain
    assert str(float8) == "convfirst(batch 2, 3x5, 64 channels, expansion 4, silu, float16, float8 matmuls)"
    assert ConvFirst(**float8.to_json()) == float8
    before = {name: value for name, value in plain.to_json().items() if name != "matmul"}
    assert ConvFirst(**before) == plain, "files from before the field existed"
    # A byte less for each weight; three more floats for what the matmuls multiply their sums and h by.
    assert plain.min_dram_bytes - float8.min_dram_bytes == 2 * 64 * 256 - 4 * (2 * 256 + 64)
    assert float8.flops == plain.flops


@pytest.mark.parametrize("fields", [{"channels": 96}, {"channels": 64, "expansion": 1.5}])
def test_float8_needs_whole_core_matrices(fields: dict[str, Any]) -> None:
    assert "multiples of 64 with matmul='float8', but got" in refusal(matmul="float8", **fields)


@pytest.mark.parametrize("matmul", ["fp8", None, 8, ["float8"]])
def test_unknown_matmuls_are_refused_with_the_choices(matmul: object) -> None:
    assert f"matmul must be one of storage, float8, but got matmul={matmul!r}" in refusal(matmul=matmul)


def test_text_names_what_tells_two_problems_apart() -> None:
    text = str(ConvFirst(2, 3, 5, 32, expansion=1.5, activation="relu", dtype="bfloat16", residual=False))
    assert text == "convfirst(batch 2, 3x5, 32 channels, expansion 1.5, relu, bfloat16, no residual)"
