"""The rendered convfirst kernels against float64: every template variant, and random problems with random configs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from convfirst_programs import EXAMPLES, FUSED, H200, RUNS, Example, assert_nan_stays_near, random_config
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.cases import make_case
from kgen.compile import CompilePool
from kgen.devices import find_device
from kgen.emulator import build
from kgen.errors import KgenError
from kgen.render import render
from kgen.verify import verify_in_emulator, verify_on_gpu

EMULATED_FLOPS = 1.5e8
GPU_FLOPS = 2e10
GPU_PROBLEMS = 200


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    program, case, library = EXAMPLES[name].program, make_case(EXAMPLES[name].problem), build(EXAMPLES[name].source)
    outputs = {verify_in_emulator(case, program, library, seed=seed, completion=how) for seed, how in RUNS}
    assert len(outputs) == 1, "the order of threads and copies must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


@pytest.mark.parametrize(
    "name", ["smallest fused", "rows in registers", "strips of four rows", "everything split", "smallest layers"]
)
@pytest.mark.parametrize("corner", [0, -1])
def test_a_nan_pixel_reaches_its_neighbours_only(name: str, corner: int) -> None:
    """Masked taps and padding are left out, not multiplied by zero: 0 x NaN would be NaN."""
    assert_nan_stays_near(EXAMPLES[name], corner)


def test_a_grid_of_any_size_computes_the_same() -> None:
    few = EXAMPLES["everything split"]
    case, library = make_case(few.problem), build(few.source)
    all_at_once = replace(few, ctas=None)
    assert all_at_once.source.text == few.source.text
    assert [k.grid for k in all_at_once.program.kernels] > [k.grid for k in few.program.kernels]
    assert verify_in_emulator(case, all_at_once.program, library) == verify_in_emulator(case, few.program, library)


def test_one_kernel_serves_every_batch() -> None:
    largest = EXAMPLES["smallest fused"]
    library = build(largest.source)
    for batch in (1, 2, 4):
        assert replace(largest, problem=replace(largest.problem, batch=batch)).failure(library) is None


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "gelu_tanh", "identity"])
@pytest.mark.parametrize(("dtype", "sigmoid"), [("float16", "tanh"), ("bfloat16", "exp2")])
def test_every_activation_in_both_dtypes(activation: Any, dtype: Any, sigmoid: Any) -> None:
    problem = Problem(2, 3, 5, 16, expansion=2, activation=activation, dtype=dtype)
    one = Example(problem, replace(FUSED, sigmoid=sigmoid))
    assert one.failure(build(one.source)) is None


def test_the_examples_reach_every_variant() -> None:
    """What the templates branch on, as combinations that a kernel can have."""
    of_every = ("conv_reuse", "sigmoid", "grid")
    for boundary, names in {
        "fused": ("weights", "conv_output"),
        "split": ("weights", "conv_output"),
        "layers": (),
    }.items():
        of_boundary = [config for config in configs() if config.boundary == boundary]
        for name in (*of_every, *names):
            assert len({getattr(config, name) for config in of_boundary}) == 2, f"{name} when {boundary}"
        assert {config.warps_n > 1 for config in of_boundary} == {True, False}
        assert any(config.warps_n > 1 for config in of_boundary if config.conv_reuse == "rows")
    across = {(config.weights, config.warps_n > 1) for config in configs() if config.boundary == "fused"}
    assert across == {("resident", False), ("resident", True), ("streamed", False), ("streamed", True)}
    assert {config.stages for config in configs()} >= {2, 3, 4}
    assert {config.project_stages for config in configs()} >= {2, 3, 4}
    for name in ("out_split", "hidden_split", "project_warps_k", "project_warps_m", "project_warps_n", "warps_m"):
        assert max(getattr(config, name) or 1 for config in configs()) > 1, name
    assert {one.problem.residual for one in EXAMPLES.values()} == {True, False}
    assert any(one.config.pixels > 16 * one.config.warps_m for one in EXAMPLES.values()), "several fragments a warp"
    assert any(k.work_items > 2 * k.grid for one in EXAMPLES.values() for k in one.program.kernels), "several items"


def configs() -> list[Any]:
    return [one.config for one in EXAMPLES.values()]


def test_the_examples_reach_every_edge() -> None:
    tiles = [(one.problem, one.config) for one in EXAMPLES.values()]
    assert any(p.batch * p.height % c.tile_h for p, c in tiles), "cut at the bottom"
    assert any(p.width % c.tile_w for p, c in tiles), "cut at the right"
    assert any(p.batch > 1 and p.height % c.tile_h for p, c in tiles), "over two images"
    assert any(c.tile_h * c.tile_w < c.pixels for _, c in tiles), "unused pixels"
    assert any(c.project_pixels and p.pixels % c.project_pixels for p, c in tiles), "a partial last tile"


@st.composite
def problems(draw: st.DrawFn, max_flops: float) -> Problem:
    """Batch 1..5, size 1..40, channels 16..256, within a budget of operations."""
    channels = 16 * draw(st.integers(1, 16))
    hidden = 16 * draw(st.integers(channels // 16, channels // 2))
    one = Problem(1, 1, 1, channels, hidden / channels)
    pixels = int(max_flops / one.flops)
    height = draw(st.integers(1, min(40, pixels)))
    width = draw(st.integers(1, min(40, pixels // height)))
    return replace(
        one,
        batch=draw(st.integers(1, min(5, pixels // height // width))),
        height=height,
        width=width,
        activation=draw(st.sampled_from(("silu", "relu", "gelu", "gelu_tanh", "identity"))),
        dtype=draw(st.sampled_from(("float16", "bfloat16"))),
        residual=draw(st.booleans()),
    )


SEEDS = st.integers(0, 2**32 - 1)
REPEATABLE = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(REPEATABLE, max_examples=15)
@given(problem=problems(EMULATED_FLOPS), sms=st.integers(1, 3), seed=SEEDS)
def test_random_problems_in_the_emulator(problem: Problem, sms: int, seed: int) -> None:
    device = replace(H200, sms=sms)  # few, so that persistent CTAs work through several tiles
    config = default_config(problem, device)
    if seed % 4:
        config = random_config(problem, device, random.Random(seed), 4 * EMULATED_FLOPS)
    note(f"{problem}\n{config}")
    program = plan(problem, config, device)
    library, case = build(render(program)), make_case(problem, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


def random_candidates(count: int) -> list[tuple[Problem, int]]:
    """Problems, each with the seed of its config."""
    found = []

    @settings(REPEATABLE, max_examples=count, phases=[Phase.generate])
    @given(problem=problems(GPU_FLOPS), seed=SEEDS)
    def collect(problem: Problem, seed: int) -> None:
        found.append((problem, seed))

    collect()
    return found


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_random_problems_on_the_gpu() -> None:
    from kgen.launch import LoadedProgram

    device = find_device("cuda:0")
    candidates = random_candidates(GPU_PROBLEMS)
    assert len(candidates) == GPU_PROBLEMS
    programs = [
        plan(problem, random_config(problem, device, random.Random(seed)), device) for problem, seed in candidates
    ]
    failures = []
    with CompilePool() as pool:
        cubins = [pool.submit(render(program), program.arch) for program in programs]
        for (problem, _), program, cubin in zip(candidates, programs, cubins, strict=True):
            try:
                verify_on_gpu(make_case(problem), LoadedProgram(program, cubin.result()))
            except KgenError as error:
                failures.append(f"{problem} with {program.config}: {error}")
    assert not failures, f"{len(failures)} of {GPU_PROBLEMS} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram

    device = find_device("cuda:0")
    one = EXAMPLES[name]
    kernels = one.program.kernels
    program = replace(plan(one.problem, one.config, device), kernels=kernels)
    case = make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
