"""The rendered cluster kernels of convfirst against float64: every template variant, random problems and configs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from cluster_programs import CLUSTER, CLUSTER_EXAMPLES
from convfirst_programs import H200, RUNS, Example, assert_nan_stays_near, issued_flops
from hypothesis import given, note, settings
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

from kgen.blocks.convfirst import Problem, cluster, plan
from kgen.blocks.convfirst.config import ClusterConfig
from kgen.cases import make_case
from kgen.compile import compile_cubin
from kgen.devices import Device, find_device
from kgen.emulator import build
from kgen.render import render
from kgen.verify import smaller_program, verify_in_emulator, verify_on_gpu

EMULATED_FLOPS = 1e8
GPU_PROBLEMS = 200


@pytest.mark.parametrize("name", CLUSTER_EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    one = CLUSTER_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    runs = (*RUNS, *((seed, "random") for seed in range(3, 8)))
    outputs = {verify_in_emulator(case, one.program, library, seed=seed, completion=how) for seed, how in runs}
    assert len(outputs) == 1, "the order of threads and copies must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


@pytest.mark.parametrize("name", ["smallest cluster", "four CTAs", "hidden split"])
@pytest.mark.parametrize("corner", [0, -1])
def test_a_nan_pixel_reaches_its_neighbours_only(name: str, corner: int) -> None:
    """Masked taps are left out: 0 x NaN would be NaN."""
    assert_nan_stays_near(CLUSTER_EXAMPLES[name], corner)


@pytest.mark.parametrize("name", ["smallest cluster", "four CTAs", "hidden split"])
def test_any_batch_computes_the_same(name: str) -> None:
    one = CLUSTER_EXAMPLES[name]
    library = build(one.source)
    for batch in (1, 2, 7):
        other = Example(replace(one.problem, batch=batch), one.config)
        assert other.source.text == one.source.text
        assert other.failure(library) is None


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("dtype", "sigmoid", "split"), [("float16", "tanh", 1), ("bfloat16", "exp2", 2)], ids=["whole", "split"]
)
def test_every_activation_in_both_dtypes(activation: Any, dtype: Any, sigmoid: Any, split: int) -> None:
    problem = Problem(2, 3, 5, 64, expansion=2, activation=activation, dtype=dtype)
    config = replace(CLUSTER, sigmoid=sigmoid, hidden_split=split)
    if sigmoid not in cluster.choices(problem, H200)["cluster"]["sigmoid"]:
        config = replace(config, sigmoid="exp2")
    one = Example(problem, config)
    assert one.failure(build(one.source)) is None


def test_what_is_emulated_in_place_of_a_large_problem_has_several_tiles() -> None:
    problem = Problem(64, 5, 7, 64, expansion=1)
    smaller, program = smaller_program(problem, CLUSTER, H200)
    assert smaller.batch < 10 and program.tiles >= 3 and program.ragged
    assert verify_in_emulator(make_case(smaller), program, build(render(plan(problem, CLUSTER, H200)))).output > 0


def values(name: str) -> set[Any]:
    return {getattr(one.config, name) for one in CLUSTER_EXAMPLES.values()}


def test_the_examples_reach_every_variant() -> None:
    assert values("cluster") == {2, 3, 4, 8}
    assert values("hidden_split") >= {1, 2, 3, 4}
    assert values("expand_warps_k") >= {1, 2, 3, 4} and values("project_warps_k") >= {1, 2, 3, 4}
    assert {pixels % 16 for pixels in values("pixels")} >= {0, 1, 4, 8}
    examples = list(CLUSTER_EXAMPLES.values())
    for problem in (one.problem for one in examples if one.config.hidden_split > 1):
        assert problem.batch > 1
    split = {one.problem.residual for one in examples if one.config.hidden_split > 1}
    assert split == {one.problem.residual for one in examples if one.config.hidden_split == 1} == {True, False}


def test_the_examples_reach_every_kind_of_problem() -> None:
    examples = list(CLUSTER_EXAMPLES.values())
    assert {one.problem.dtype for one in examples} == set(DTYPES)
    assert {one.problem.activation for one in examples} == set(ACTIVATIONS)
    assert {one.problem.width for one in examples} >= {1, 5, 7, 8}
    assert {one.problem.expansion for one in examples} >= {1, 1.5, 2, 4}
    assert {one.program.ragged for one in examples} == {True, False}
    assert any(one.program.ragged and one.program.tiles > 2 for one in examples)


def random_config(
    problem: Problem, device: Device, rng: random.Random, max_flops: float = float("inf")
) -> ClusterConfig | None:
    """A feasible config whose kernels issue at most ``max_flops``, if the problem has any."""
    for values in cluster.choices(problem, device).values():
        for _ in range(500):
            config = cluster.relax(problem, cluster.draw(values, rng), device)
            if config is not None and issued_flops(plan(problem, config, device)) <= max_flops:
                return config
    return None


@settings(REPEATABLE, max_examples=40)
@given(problem=problems({32: 128, 64: 192}, 12, 5, EMULATED_FLOPS), seed=SEEDS)
def test_random_problems_in_the_emulator(problem: Problem, seed: int) -> None:
    config = random_config(problem, H200, random.Random(seed), 4 * EMULATED_FLOPS)
    assert config is not None, problem
    note(f"{problem}\n{config}")
    program = plan(problem, config, H200)
    library, case = build(render(program)), make_case(problem, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


def at_bad_boundaries(channels: int, device: Device, count: int) -> list[tuple[Problem, ClusterConfig]]:
    """Each shape that clusters are for with so many random configs."""
    rng, candidates = random.Random(0), []
    for batch, height, width in BAD_BOUNDARIES:
        problem = Problem(batch, height, width, channels, expansion=2)
        if not cluster.choices(problem, device):
            continue
        drawn = (random_config(problem, device, rng) for _ in range(count))
        candidates += [(problem, config) for config in drawn if config is not None]
    assert len(candidates) >= count * (len(BAD_BOUNDARIES) - 1)
    return candidates


def test_bad_boundaries_in_the_emulator() -> None:
    for problem, config in at_bad_boundaries(64, H200, 1):
        one = Example(problem, config)
        assert one.failure(build(one.source)) is None, one


def gpu_with_clusters() -> Device:
    device = find_device("cuda:0")
    if int(device.arch.removeprefix("sm_")) < 90:
        pytest.skip(f"clusters need compute capability 9.0 or later, but {device.title} is {device.arch}")
    return device


def random_pairs(device: Device, count: int) -> list[tuple[Problem, ClusterConfig]]:
    """Problems with a config each; of many channels, few random configs are feasible."""
    seeded = random_candidates(2 * count, problems({32: 512, 128: 1024}, 28, 4, 2e9))
    drawn = ((problem, random_config(problem, device, random.Random(seed))) for problem, seed in seeded)
    feasible = [(problem, config) for problem, config in drawn if config is not None]
    assert len(feasible) >= count
    return feasible[:count]


def test_enough_random_configs_are_feasible_for_the_gpu() -> None:
    pairs = random_pairs(H200, GPU_PROBLEMS)
    assert {config.cluster for _, config in pairs} >= {2, 3, 4, 5, 6, 7, 8}
    assert {config.hidden_split > 1 for _, config in pairs} == {True, False}
    assert max(problem.channels for problem, _ in pairs) > 512


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_random_problems_on_the_gpu() -> None:
    device = gpu_with_clusters()
    candidates = random_pairs(device, GPU_PROBLEMS)
    failures = failures_on_the_gpu(device, candidates)
    assert not failures, f"{len(failures)} of {len(candidates)} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_bad_boundaries_on_the_gpu() -> None:
    device = gpu_with_clusters()
    candidates = at_bad_boundaries(128, device, 4)
    failures = failures_on_the_gpu(device, candidates)
    assert not failures, f"{len(failures)} of {len(candidates)} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLUSTER_EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.launch import LoadedProgram

    device, one = gpu_with_clusters(), CLUSTER_EXAMPLES[name]
    program = plan(one.problem, one.config, device)
    case = make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
