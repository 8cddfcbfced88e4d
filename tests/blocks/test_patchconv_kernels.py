"""The rendered patchconv kernel against float64: every template variant, random problems with random configs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convfirst_programs import H200, RUNS
from hypothesis import given, note, settings
from hypothesis import strategies as st
from layer_programs import ACTIVATIONS, DTYPES, LayerExample, failures_on_the_gpu, random_config
from patchconv_programs import PATCHCONV, PATCHCONV_EXAMPLES
from random_problems import REPEATABLE, SEEDS, random_candidates

from kgen.blocks.patchconv import Problem, plan
from kgen.cases import make_case
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.emulator import build
from kgen.render import render
from kgen.verify import check_in_emulator, smaller_program, verify_in_emulator, verify_on_gpu

EMULATED_FLOPS = 1e7
GPU_FLOPS = 4e9
GPU_PROBLEMS = 200
EXAMPLES = list(PATCHCONV_EXAMPLES.values())
PATCHES = (1, 2, 4)
KINDS = (
    (False, "storage", "nhwc"),
    (True, "storage", "nhwc"),
    (True, "storage", "nchw"),
    (True, "uint8", "nhwc"),
    (True, "uint8", "nchw"),
)
"""Whether x is an image, its pixels, and their order: where the template takes inputs from."""


@pytest.mark.parametrize("name", PATCHCONV_EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    one = PATCHCONV_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    runs = (*RUNS, *((seed, "random") for seed in range(3, 8)))
    outputs = {verify_in_emulator(case, one.program, library, seed=seed, completion=how) for seed, how in runs}
    assert len(outputs) == 1, "the order of threads and copies must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


def by_image(problem: Problem, x: np.ndarray) -> np.ndarray:
    """A view of x as [batch][height][width][channels]."""
    return x.transpose(0, 2, 3, 1) if problem.order == "nchw" else x


OF_NAN = ("remainders, outputs split", "residual, groups of warps", "patches of four, two warps across", "image, 1x1")


@pytest.mark.parametrize("place", [(0, 0, 0), (-1, -1, -1), (-1, 0, 3)])
@pytest.mark.parametrize("name", [*OF_NAN, "image, 4x4", "planes, 2x2", "planes, 4x4"])
def test_a_nan_pixel_reaches_its_patch_only(name: str, place: tuple[int, int, int]) -> None:
    """Places count patches. What fills up inputs and tiles is zero, not some other pixel times zero."""
    one = PATCHCONV_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    x = case.images[case.index]
    image, *at = (range(size)[i % size] for i, size in zip(place, one.problem.y.shape[:3], strict=True))
    clean = one.run(library, x, case.packed)
    row, column = (i * one.problem.patch + one.problem.patch - 1 for i in at)
    by_image(one.problem, x)[image, row, column, -1] = np.nan
    spoiled = one.run(library, x, case.packed)
    own = np.zeros(clean.shape[:3], bool)
    own[(image, *at)] = True
    assert np.isfinite(clean).all()
    assert np.isnan(spoiled[own]).all()
    assert np.array_equal(spoiled[~own], clean[~own])


@pytest.mark.parametrize("name", ["remainders, outputs split", "image, 4x4", "planes, 4x4"])
def test_pixels_that_fill_no_patch_are_not_used(name: str) -> None:
    one = PATCHCONV_EXAMPLES[name]
    problem = one.problem
    case, library = make_case(problem), build(one.source)
    x = case.images[case.index]
    clean = one.run(library, x, case.packed)
    used = np.zeros(problem.x.shape[1:3], bool)
    used[: problem.height // problem.patch * problem.patch, : problem.width // problem.patch * problem.patch] = True
    assert not used.all()
    by_image(problem, x)[:, ~used] = np.nan
    assert np.array_equal(one.run(library, x, case.packed), clean)


@pytest.mark.parametrize("name", ["remainders, outputs split", "residual, groups of warps", "bytes in planes, 4x4"])
def test_a_grid_of_any_size_computes_the_same(name: str) -> None:
    few = PATCHCONV_EXAMPLES[name]
    case, library = make_case(few.problem), build(few.source)
    all_at_once = replace(few, ctas=None)
    assert all_at_once.source.text == few.source.text
    assert all_at_once.program.kernels[0].grid > few.program.kernels[0].grid
    assert verify_in_emulator(case, all_at_once.program, library) == verify_in_emulator(case, few.program, library)


@pytest.mark.parametrize("name", ["smallest", "residual, outputs split", "bytes, 4x4", "planes, 2x2"])
def test_one_kernel_serves_every_batch(name: str) -> None:
    one = PATCHCONV_EXAMPLES[name]
    library = build(one.source)
    for batch in (1, 2, 7):
        other = replace(one, problem=replace(one.problem, batch=batch))
        assert other.source.text == one.source.text
        assert other.failure(library) is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "sigmoid"), [("float16", "tanh"), ("bfloat16", "exp2")])
def test_every_activation_in_both_dtypes(activation: Any, dtype: Any, sigmoid: Any) -> None:
    problem = Problem(2, 6, 5, 16, 32, 2, activation=activation, dtype=dtype)
    one = LayerExample(problem, replace(PATCHCONV, sigmoid=sigmoid))
    assert one.failure(build(one.source)) is None


def test_what_is_emulated_in_place_of_a_large_batch_has_several_tiles() -> None:
    problem = Problem(64, 9, 7, 16, 16, 2)
    smaller, program = smaller_program(problem, PATCHCONV, H200)
    assert smaller.batch < 10 and program.tiles >= 3 and program.ragged
    assert check_in_emulator(problem, PATCHCONV, H200).output > 0


def kind(problem: Problem) -> tuple[bool, str, str]:
    return problem.image, problem.pixels, problem.order


def comes_in_fours(problem: Problem) -> bool:
    """Whether the template brings four elements of an image at a time: they lie together, aligned."""
    apart = 1 if problem.order == "nchw" else problem.channels
    return problem.patch * apart % 4 == problem.width * apart % 4 == 0


def test_the_examples_reach_every_kind_of_input() -> None:
    assert {(kind(one.problem), one.problem.patch) for one in EXAMPLES} == {(k, p) for k in KINDS for p in PATCHES}
    assert {one.problem.channels for one in EXAMPLES if one.problem.image} == {1, 2, 3, 4}
    for dtype in DTYPES:
        assert {(one.problem.image, one.problem.pixels) for one in EXAMPLES if one.problem.dtype == dtype} == {
            (True, "uint8"),
            (True, "storage"),
            (False, "storage"),
        }
    fours = {(kind(one.problem), comes_in_fours(one.problem)) for one in EXAMPLES if one.problem.image}
    assert fours == {(k, how) for k in KINDS if k[0] for how in (True, False)}
    filled_up = {one.problem.inputs % 16 > 0 for one in EXAMPLES if one.problem.pixels == "uint8"}
    assert filled_up == {one.problem.inputs % 16 > 0 for one in EXAMPLES if one.problem.image} == {True, False}


def test_the_examples_reach_every_variant() -> None:
    """What the templates branch on, beside kinds of inputs."""
    for image in (True, False):
        steps = {one.program.kernels[0].steps > 1 for one in EXAMPLES if one.problem.image == image}
        assert steps == {True, False}
        for name in ("out_split", "warps_m", "warps_n", "warps_k"):
            values = {getattr(one.config, name) > 1 for one in EXAMPLES if one.problem.image == image}
            assert values == {True, False}, f"{name} when image is {image}"
        assert {one.config.stages for one in EXAMPLES if one.problem.image == image} >= {2, 3, 4}
    residual = [one for one in EXAMPLES if one.problem.residual]
    assert {one.program.ragged for one in residual} == {True, False}
    assert (
        {one.config.out_split > 1 for one in residual} == {one.config.warps_k > 1 for one in residual} == {True, False}
    )
    assert {one.problem.activation for one in EXAMPLES} == set(ACTIVATIONS)
    for activation in ("silu", "gelu", "gelu_tanh"):
        assert {one.config.sigmoid for one in EXAMPLES if one.problem.activation == activation} == {"exp2", "tanh"}
    assert any(one.config.pixels > 16 * one.config.warps_m for one in EXAMPLES), "several fragments a warp"
    assert any(one.problem.outputs > 16 * one.config.out_split * one.config.warps_n for one in EXAMPLES)


def test_the_examples_reach_every_edge() -> None:
    for image in (True, False):
        some = [one for one in EXAMPLES if one.problem.image == image]
        assert {one.program.ragged for one in some} == {True, False}, "a partial last tile"
        assert {one.problem.height % one.problem.patch > 0 for one in some} == {True, False}
        assert {one.problem.width % one.problem.patch > 0 for one in some} == {True, False}
        items = [(one.program.kernels[0].work_items, one.program.kernels[0].grid) for one in some]
        assert any(work > 2 * grid for work, grid in items), "several items a CTA"
        assert any(grid < work and work % grid for work, grid in items), "not as many for each"
        assert any(work == grid for work, grid in items)


@st.composite
def problems(draw: st.DrawFn, max_flops: float, max_outputs: int = 256) -> Problem:
    """Batch 1..5, size 1..64 patches and a rest, within a budget of operations."""
    (image, pixels, order), patch = draw(st.sampled_from([(kind, patch) for kind in KINDS for patch in PATCHES]))
    channels = draw(st.integers(1, 4)) if image else 16 * draw(st.integers(1, 16))
    outputs = 16 * draw(st.integers(1, max_outputs // 16))
    residual = not image and patch == 1 and draw(st.booleans())
    one = Problem(1, patch, patch, channels, channels if residual else outputs, patch, residual=residual)
    patches = max(1, int(max_flops / one.flops))
    high = draw(st.integers(1, min(64, patches)))
    wide = draw(st.integers(1, min(64, patches // high)))
    return replace(
        one,
        batch=draw(st.integers(1, min(5, patches // high // wide))),
        height=high * patch + draw(st.integers(0, patch - 1)),
        width=wide * patch + draw(st.integers(0, patch - 1)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        dtype=draw(st.sampled_from(DTYPES)),
        pixels=pixels,
        order=order,
    )


@settings(REPEATABLE, max_examples=40)
@given(problem=problems(EMULATED_FLOPS), sms=st.integers(1, 3), seed=SEEDS)
def test_random_problems_in_the_emulator(problem: Problem, sms: int, seed: int) -> None:
    device = replace(H200, sms=sms)  # few, so that CTAs work through several tiles
    config = random_config(problem, device, random.Random(seed), 4 * EMULATED_FLOPS)
    note(f"{problem}\n{config}")
    program = plan(problem, config, device)
    library, case = build(render(program)), make_case(problem, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


def test_random_problems_are_of_every_kind() -> None:
    found = [problem for problem, _ in random_candidates(GPU_PROBLEMS, problems(GPU_FLOPS))]
    assert len(found) == GPU_PROBLEMS
    assert len({(kind(problem), problem.patch) for problem in found}) == len(KINDS) * len(PATCHES)
    assert {problem.residual for problem in found} == {True, False}


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_random_problems_on_the_gpu() -> None:
    device = find_device("cuda:0")
    candidates = random_candidates(GPU_PROBLEMS, problems(GPU_FLOPS))
    assert len(candidates) == GPU_PROBLEMS
    pairs = [(problem, random_config(problem, device, random.Random(n))) for n, (problem, _) in enumerate(candidates)]
    failures = failures_on_the_gpu(device, pairs)
    assert not failures, f"{len(failures)} of {GPU_PROBLEMS} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PATCHCONV_EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.launch import LoadedProgram

    one, device = PATCHCONV_EXAMPLES[name], find_device("cuda:0")
    few = device if one.ctas is None else replace(device, sms=one.ctas)
    program, case = plan(one.problem, one.config, few), make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
