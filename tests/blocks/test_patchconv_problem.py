"""PatchConv: what it accepts, what it refuses and in which words, and what it derives."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_programs import ACTIVATIONS, DTYPES

from kgen.blocks.patchconv.problem import PatchConv
from kgen.errors import ProblemError

NOT_POSITIVE_INTEGERS = (
    st.integers(max_value=0) | st.floats() | st.booleans() | st.none() | st.text(max_size=3) | st.tuples(st.integers())
)
LAYER = PatchConv(2, 9, 7, 32, 48, activation="silu")
IMAGE = PatchConv(3, 11, 9, 3, 32, 4, dtype="bfloat16", pixels="uint8", order="nchw")
LINEAR = PatchConv(2, 5, 3, 64, 64, 1, residual=True)


def refusal(**fields: Any) -> str:
    with pytest.raises(ProblemError) as caught:
        PatchConv(**({"batch": 1, "height": 8, "width": 8, "channels": 32, "outputs": 64} | fields))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "; " in sentence, "every refusal ends in a next step"
    return sentence


@st.composite
def problems(draw: st.DrawFn) -> PatchConv:
    image, patch = draw(st.booleans()), draw(st.sampled_from((1, 2, 4)))
    channels = draw(st.integers(1, 4)) if image else 16 * draw(st.integers(1, 256))
    residual = not image and patch == 1 and draw(st.booleans())
    return PatchConv(
        batch=draw(st.integers(1, 4096)),
        height=draw(st.integers(patch, 4096)),
        width=draw(st.integers(patch, 4096)),
        channels=channels,
        outputs=channels if residual else 16 * draw(st.integers(1, 256)),
        patch=patch,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        dtype=draw(st.sampled_from(DTYPES)),
        residual=residual,
        pixels=draw(st.sampled_from(("storage", "uint8"))) if image else "storage",
        order=draw(st.sampled_from(("nhwc", "nchw"))) if image else "nhwc",
    )


@given(problems())
def test_any_legal_problem_round_trips_through_json(problem: PatchConv) -> None:
    again = PatchConv(**json.loads(json.dumps(problem.to_json())))
    assert again == problem
    assert hash(again) == hash(problem)
    assert problem.image == (problem.channels < 5)
    assert problem.y.shape[0] == problem.batch and problem.y.shape[3] == problem.outputs
    assert problem.patches == problem.y.elements // problem.outputs > 0


@given(st.sampled_from(["batch", "height", "width", "channels", "outputs"]), NOT_POSITIVE_INTEGERS)
def test_sizes_must_be_positive_integers(name: str, value: object) -> None:
    sentence = refusal(**{name: value})
    assert sentence.startswith(f"{name} must be an integer >= 1, but got {name}={value!r}")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"patch": 3}, "patch must be one of 1, 2, 4, but got patch=3; choose one of them"),
        ({"patch": 0}, "patch must be one of 1, 2, 4, but got patch=0; choose one of them"),
        ({"patch": None}, "patch must be one of 1, 2, 4, but got patch=None; choose one of them"),
        (
            {"activation": "tanh"},
            "activation must be one of silu, relu, gelu, gelu_tanh, identity, but got activation=",
        ),
        ({"dtype": "float32"}, "dtype must be one of float16, bfloat16, but got dtype='float32'; choose one of them"),
        ({"pixels": "int8"}, "pixels must be one of storage, uint8, but got pixels='int8'; choose one of them"),
        ({"order": "nc"}, "order must be one of nhwc, nchw, but got order='nc'; choose one of them"),
        ({"height": 1}, "height and width must be at least patch=2, but got 1x8; use larger images or smaller patches"),
        (
            {"width": 3, "patch": 4},
            "height and width must be at least patch=4, but got 8x3; use larger images or smaller patches",
        ),
        (
            {"channels": 5},
            "channels must be at most 4 (an image's) or a multiple of 16 up to 4096, but got channels=5; use 16",
        ),
        (
            {"channels": 4112},
            "channels must be at most 4 (an image's) or a multiple of 16 up to 4096, but got channels=4112; use 4096",
        ),
        ({"outputs": 3}, "outputs must be a multiple of 16 up to 4096, but got outputs=3; use 16"),
        ({"outputs": 65}, "outputs must be a multiple of 16 up to 4096, but got outputs=65; use 80"),
        ({"outputs": 10**9}, "outputs must be a multiple of 16 up to 4096, but got outputs=1000000000; use 4096"),
        (
            {"pixels": "uint8"},
            "pixels must be 'storage' and order 'nhwc' for more than 4 channels, but got pixels='uint8', order='nhwc' "
            "with channels=32; convert x first",
        ),
        (
            {"order": "nchw"},
            "pixels must be 'storage' and order 'nhwc' for more than 4 channels, but got pixels='storage', "
            "order='nchw' with channels=32; convert x first",
        ),
        (
            {"residual": 1},
            "residual must be True or False, and needs patch=1 and as many outputs as channels, but got residual=1, "
            "patch=2, channels=32, outputs=64; use residual=False",
        ),
        (
            {"residual": True, "outputs": 32},
            "residual must be True or False, and needs patch=1 and as many outputs as channels, but got residual=True, "
            "patch=2, channels=32, outputs=32; use residual=False",
        ),
        (
            {"residual": True, "patch": 1},
            "residual must be True or False, and needs patch=1 and as many outputs as channels, but got residual=True, "
            "patch=1, channels=32, outputs=64; use residual=False",
        ),
    ],
    ids=str,
)
def test_a_broken_rule_is_named_with_values_and_next_step(fields: dict[str, Any], sentence: str) -> None:
    assert refusal(**fields).startswith(sentence)


@pytest.mark.parametrize("patch", [True, 1.0, 2.0])
def test_patch_must_be_an_integer(patch: object) -> None:
    assert refusal(patch=patch).startswith(f"patch must be one of 1, 2, 4, but got patch={patch!r}")


@given(st.integers(5, 10**6).filter(lambda n: n % 16 or n > 4096))
def test_the_suggested_channels_are_legal(channels: int) -> None:
    suggested = int(refusal(channels=channels).rsplit(" ", 1)[1])
    assert PatchConv(1, 8, 8, suggested, 64).channels == suggested
    assert suggested == 4096 or 0 < suggested - channels < 16


def test_tensors_leave_out_what_fills_no_patch() -> None:
    assert (LAYER.x.shape, LAYER.x.dtype, LAYER.x.order) == ((2, 9, 7, 32), "float16", "nhwc")
    assert (LAYER.y.shape, LAYER.y.dtype, LAYER.y.order) == ((2, 4, 3, 48), "float16", "nhwc")
    assert (LAYER.patches, LAYER.inputs, LAYER.image) == (24, 128, False)
    assert (LINEAR.y.shape, LINEAR.patches, LINEAR.inputs) == ((2, 5, 3, 64), 30, 64)


def test_an_image_may_be_bytes_in_planes() -> None:
    assert (IMAGE.x.shape, IMAGE.x.dtype, IMAGE.x.order) == ((3, 11, 9, 3), "uint8", "nchw")
    assert IMAGE.x.views[0].shape == (3, 3, 11, 9)
    assert (IMAGE.y.shape, IMAGE.y.dtype, IMAGE.y.order) == ((3, 2, 2, 32), "bfloat16", "nhwc")
    assert (IMAGE.patches, IMAGE.inputs, IMAGE.image) == (12, 48, True)
    assert replace(IMAGE, pixels="storage").x.dtype == "bfloat16"


def test_flops_count_two_for_each_product() -> None:
    assert LAYER.flops == 2 * 24 * 128 * 48
    assert IMAGE.flops == 2 * 12 * 48 * 32
    assert LINEAR.flops == 2 * 30 * 64 * 64


def test_min_dram_bytes_count_patches_weights_and_y_once() -> None:
    assert LAYER.min_dram_bytes == 2 * 24 * 128 + 2 * 128 * 48 + 4 * 48 + 2 * 24 * 48
    assert IMAGE.min_dram_bytes == 12 * 48 + 2 * 48 * 32 + 4 * 32 + 2 * 12 * 32, "a byte a pixel"
    assert LINEAR.min_dram_bytes == 2 * 30 * 64 + 2 * 64 * 64 + 4 * 64 + 2 * 30 * 64, "the residual is x"


def test_sizes_are_inputs_outputs_patches_of_an_image_and_batch() -> None:
    assert LAYER.sizes == (128, 48, 12, 2)
    assert IMAGE.sizes == (48, 32, 4, 3)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (LAYER, "patchconv(batch 2, 9x7, 32 to 48 channels, patch 2, silu, float16)"),
        (IMAGE, "patchconv(batch 3, 11x9, 3 to 32 channels, patch 4, identity, bfloat16, uint8 nchw)"),
        (LINEAR, "patchconv(batch 2, 5x3, 64 to 64 channels, patch 1, identity, float16, residual)"),
    ],
)
def test_text_names_what_tells_two_problems_apart(problem: PatchConv, text: str) -> None:
    assert str(problem) == text
