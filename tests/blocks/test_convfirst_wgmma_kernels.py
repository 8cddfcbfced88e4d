"""The rendered Hopper kernels of convfirst against float64: every template variant, random problems and configs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convfirst_programs import H200, RUNS, Example, assert_nan_stays_near
from hypothesis import given, note, settings
from hypothesis import strategies as st
from random_problems import (
    ACTIVATIONS,
    BAD_BOUNDARIES,
    DTYPES,
    REPEATABLE,
    SEEDS,
    failures_on_the_gpu,
    problems,
    random_candidates,
)
from wgmma_programs import FLOAT8_EXAMPLES, HOPPER_EXAMPLES, WGMMA_FUSED, WGMMA_LAYERS

from kgen.blocks.convfirst import Problem, layered, plan, wgmma
from kgen.blocks.convfirst.config import WgmmaConfig
from kgen.cases import make_case
from kgen.compile import compile_cubin
from kgen.devices import Device, find_device
from kgen.emulator import build
from kgen.render import render
from kgen.verify import smaller_program, verify_in_emulator, verify_on_gpu

EMULATED_FLOPS = 3e8
GPU_PROBLEMS = 200
HOPPER_CHANNELS = {16: 256, 64: 768}
"""The most channels on the GPU, by what they are a multiple of: those of 64 are for the layers' kernels, too."""


@pytest.mark.parametrize("name", HOPPER_EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    one = HOPPER_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    outputs = {verify_in_emulator(case, one.program, library, seed=seed, completion=how) for seed, how in RUNS}
    assert len(outputs) == 1, "the order of threads, copies and matmuls must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


@pytest.mark.parametrize(
    "name", ["smallest", "z in shared memory, overlapped", "rows of images", "deferred", "float8, deferred"]
)
@pytest.mark.parametrize("corner", [0, -1])
def test_a_nan_pixel_reaches_its_neighbours_only(name: str, corner: int) -> None:
    """Masked taps and padding are left out, or zeros: 0 x NaN would be NaN."""
    assert_nan_stays_near(HOPPER_EXAMPLES[name], corner)


@pytest.mark.parametrize("name", ["smallest", "z in shared memory", "rows of images", "deferred", "float8, deferred"])
def test_a_grid_of_any_size_and_any_batch_compute_the_same(name: str) -> None:
    one = HOPPER_EXAMPLES[name]
    library = build(one.source)
    for batch, ctas in ((1, 1), (2, 2), (7, 3), (4, None)):
        other = Example(replace(one.problem, batch=batch), one.config, ctas)
        assert other.source.text == one.source.text
        assert other.failure(library) is None


@pytest.mark.parametrize("base", [WGMMA_FUSED, WGMMA_LAYERS], ids=lambda config: config.boundary)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "sigmoid"), [("float16", "tanh"), ("bfloat16", "exp2")])
def test_every_activation_in_both_dtypes(base: WgmmaConfig, activation: Any, dtype: Any, sigmoid: Any) -> None:
    problem = Problem(2, 3, 5, 64, expansion=1, activation=activation, dtype=dtype)
    config = replace(base, sigmoid=sigmoid)
    if sigmoid not in wgmma.choices(problem, H200)[base.boundary]["sigmoid"]:
        config = base
    one = Example(problem, config)
    assert one.failure(build(one.source)) is None


@pytest.mark.parametrize("name", FLOAT8_EXAMPLES)
def test_float8_kernels_compute_what_the_layers_do(name: str) -> None:
    """Closer than any bound: but for ties, every e4m3 is the same."""
    one = FLOAT8_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    x = case.images[case.index]
    y = np.full_like(x, np.nan)
    library.launch(one.program, x, case.packed, y, batch=one.problem.batch)
    by_layer = layered(one.problem, case.folded, x).astype(np.float64)
    assert np.linalg.norm(y - by_layer) < 0.3 * case.bound.output / 2 * np.linalg.norm(by_layer)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_in_float8(activation: Any, dtype: Any) -> None:
    problem = Problem(2, 3, 5, 64, expansion=2, activation=activation, dtype=dtype, matmul="float8")
    one = Example(problem, WGMMA_LAYERS)
    assert one.failure(build(one.source)) is None


@pytest.mark.parametrize("base", [WGMMA_FUSED, WGMMA_LAYERS], ids=lambda config: config.boundary)
def test_what_is_emulated_in_place_of_a_large_problem_has_several_tiles(base: WgmmaConfig) -> None:
    problem = Problem(256, 5, 7, 64, expansion=1)
    smaller, program = smaller_program(problem, base, H200)
    assert smaller.batch < 10 and program.tiles >= 3 and program.ragged
    assert verify_in_emulator(make_case(smaller), program, build(render(plan(problem, base, H200)))).output > 0


def values(side: str, name: str) -> set[Any]:
    return {getattr(one.config, name) for one in of_side(side)}


def of_side(side: str) -> list[Example]:
    return [one for one in HOPPER_EXAMPLES.values() if one.config.boundary == side]


def test_the_examples_reach_every_variant() -> None:
    fused = [(one.problem, one.config, one.program.constants["RESIDENT"]) for one in of_side("wgmma_fused")]
    assert values("wgmma_fused", "warpgroups") == {1, 2, 3}
    for side, name in (("fused", "cluster"), ("layers", "expand_cluster"), ("layers", "project_cluster")):
        assert values(f"wgmma_{side}", name) >= {1, 2, 4}, name
    assert {(resident, config.x_slots) for _, config, resident in fused} == {(a, b) for a in (0, 1) for b in (1, 2)}
    blocks = [(config.warpgroup_pixels, config.conv_reuse, resident) for _, config, resident in fused]
    assert set(blocks) >= {(128, reuse, resident) for reuse in ("rows", "none") for resident in (False, True)}
    for z in ("registers", "shared"):
        of_z = [(problem, config) for problem, config, _ in fused if config.conv_output == z]
        assert {config.overlap for _, config in of_z} == {problem.residual for problem, _ in of_z} == {True, False}
        assert {config.warpgroups for _, config in of_z} >= {1, 2, 3}
    assert {config.weight_slots for _, config, resident in fused if not resident} >= {2, 3, 4, 5}
    assert {p.channels for p, _, _ in fused} >= {16, 48, 64, 128}
    for name in ("expand_warpgroups", "project_warpgroups"):
        assert values("wgmma_layers", name) == {1, 2, 3}
    for name in ("expand_deferred", "project_deferred"):
        assert values("wgmma_layers", name) == {True, False}
    for name in ("expand_stages", "project_stages", "conv_stages"):
        assert values("wgmma_layers", name) >= {2, 3}
    assert {one.problem.channels for one in of_side("wgmma_layers")} >= {64, 128, 192}


def test_the_examples_reach_every_kind_of_problem() -> None:
    for side in ("wgmma_fused", "wgmma_layers"):
        problems = [one.problem for one in of_side(side)]
        assert {p.width for p in problems} >= {1, 5, 7, 8}, side
        assert {p.dtype for p in problems} == set(DTYPES)
        assert {p.activation for p in problems} == set(ACTIVATIONS)
        assert {p.residual for p in problems} == {True, False}
        assert {p.expansion for p in problems} >= {1.5, 2}
        programs = [one.program for one in of_side(side)]
        assert any(p.ragged and all(k.work_items > 2 * k.grid for k in p.kernels) for p in programs), "several tiles"
        assert {p.ragged for p in programs} == {True, False}


def random_config(problem: Problem, device: Device, rng: random.Random) -> WgmmaConfig:
    """A feasible config of a random side; the last resort is a config of the smallest choices."""
    sides = wgmma.choices(problem, device)
    side = rng.choice(list(sides))
    for _ in range(300):
        config = wgmma.relax(problem, wgmma.draw(side, sides[side], rng), device)
        if config is not None:
            return config
    raise AssertionError(f"300 draws must give a feasible config of {side}, but gave none for {problem}")


@settings(REPEATABLE, max_examples=40)
@given(problem=problems({16: 128, 64: 128}, 12, 5, EMULATED_FLOPS), sms=st.integers(1, 2), seed=SEEDS)
def test_random_problems_in_the_emulator(problem: Problem, sms: int, seed: int) -> None:
    device = replace(H200, sms=sms)  # few, so that persistent CTAs work through several tiles
    config = random_config(problem, device, random.Random(seed))
    note(f"{problem}\n{config}")
    program = plan(problem, config, device)
    library, case = build(render(program)), make_case(problem, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


@settings(REPEATABLE, max_examples=10)
@given(problem=problems({64: 192}, 12, 5, EMULATED_FLOPS), sms=st.integers(1, 2), seed=SEEDS)
def test_random_float8_problems_in_the_emulator(problem: Problem, sms: int, seed: int) -> None:
    float8, device = replace(problem, matmul="float8"), replace(H200, sms=sms)
    config = random_config(float8, device, random.Random(seed))
    note(f"{float8}\n{config}")
    program = plan(float8, config, device)
    library, case = build(render(program)), make_case(float8, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


def at_bad_boundaries(side: str, channels: int, device: Device, count: int) -> list[tuple[Problem, WgmmaConfig]]:
    """Each shape with so many random configs."""
    rng, candidates = random.Random(side), []
    for batch, height, width in BAD_BOUNDARIES:
        problem = Problem(batch, height, width, channels, expansion=2)
        drawn = (wgmma.draw(side, wgmma.choices(problem, device)[side], rng) for _ in range(300))
        feasible = [config for config in drawn if wgmma.relax(problem, config, device) is not None]
        candidates += [(problem, config) for config in feasible[:count]]
    assert len(candidates) == count * len(BAD_BOUNDARIES)
    return candidates


@pytest.mark.parametrize("side", ["wgmma_fused", "wgmma_layers"])
def test_bad_boundaries_in_the_emulator(side: str) -> None:
    for problem, config in at_bad_boundaries(side, 64, H200, 1):
        one = Example(problem, config, ctas=1)
        assert one.failure(build(one.source)) is None, one


def hopper_gpu() -> Device:
    device = find_device("cuda:0")
    if device.arch != "sm_90":
        pytest.skip(f"the wgmma kernels need a Hopper GPU (sm_90), but {device.title} is {device.arch}")
    return device


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_random_problems_on_the_gpu() -> None:
    device = hopper_gpu()
    seeded = random_candidates(GPU_PROBLEMS, problems(HOPPER_CHANNELS, 40, 5, 2e10))
    assert len(seeded) == GPU_PROBLEMS
    candidates = [(problem, random_config(problem, device, random.Random(seed))) for problem, seed in seeded]
    failures = failures_on_the_gpu(device, candidates)
    assert not failures, f"{len(failures)} of {GPU_PROBLEMS} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_random_float8_problems_on_the_gpu() -> None:
    device = hopper_gpu()
    seeded = random_candidates(GPU_PROBLEMS // 2, problems({64: 768}, 40, 5, 2e10))
    asked = [(replace(problem, matmul="float8"), random.Random(seed)) for problem, seed in seeded]
    failures = failures_on_the_gpu(device, [(one, random_config(one, device, rng)) for one, rng in asked])
    assert not failures, f"{len(failures)} of {len(asked)} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("side", ["wgmma_fused", "wgmma_layers"])
def test_bad_boundaries_on_the_gpu(side: str) -> None:
    device = hopper_gpu()
    candidates = at_bad_boundaries(side, 128, device, 4)
    failures = failures_on_the_gpu(device, candidates)
    assert not failures, f"{len(failures)} of {len(candidates)} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("name", HOPPER_EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.launch import LoadedProgram

    device, one = hopper_gpu(), HOPPER_EXAMPLES[name]
    program = replace(plan(one.problem, one.config, device), kernels=one.program.kernels)
    case = make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
