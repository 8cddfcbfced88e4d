"""The rendered classifier kernel against float64: every template variant, random problems with random configs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from classifier_programs import CLASSIFIER, CLASSIFIER_EXAMPLES
from convfirst_programs import H200, RUNS
from hypothesis import given, note, settings
from hypothesis import strategies as st
from layer_programs import DTYPES, failures_on_the_gpu, random_config
from random_problems import REPEATABLE, SEEDS, random_candidates

from kgen.blocks.classifier import Problem, plan
from kgen.blocks.classifier.config import ClassifierConfig
from kgen.cases import make_case
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.emulator import build
from kgen.render import render
from kgen.verify import check_in_emulator, smaller_program, verify_in_emulator, verify_on_gpu

EMULATED_FLOPS = 1e6
GPU_FLOPS = 1e9
GPU_PROBLEMS = 200
EXAMPLES = list(CLASSIFIER_EXAMPLES.values())


@pytest.mark.parametrize("name", CLASSIFIER_EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    one = CLASSIFIER_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    runs = (*RUNS, *((seed, "random") for seed in range(3, 8)))
    outputs = {verify_in_emulator(case, one.program, library, seed=seed, completion=how) for seed, how in runs}
    assert len(outputs) == 1, "the order of threads and copies must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


@pytest.mark.parametrize("image", [0, 1, -1])
@pytest.mark.parametrize("name", ["odd classes", "a slice cut, groups of warps", "sixteen images", "three images"])
def test_a_nan_pixel_reaches_its_image_only(name: str, image: int) -> None:
    one = CLASSIFIER_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    x = case.images[case.index]
    clean = one.run(library, x, case.packed)
    x[image, -1, -1, 3] = np.nan
    spoiled = one.run(library, x, case.packed)
    others = np.arange(one.problem.batch) != image % one.problem.batch
    assert np.isfinite(clean).all()
    assert np.isnan(spoiled[image]).all()
    assert np.array_equal(spoiled[others], clean[others])


@pytest.mark.parametrize("name", ["odd classes", "a slice cut, groups of warps", "three images", "sixteen images"])
def test_one_kernel_serves_every_batch(name: str) -> None:
    one = CLASSIFIER_EXAMPLES[name]
    library = build(one.source)
    for batch in (1, 2, 7, 18):
        other = replace(one, problem=replace(one.problem, batch=batch))
        assert other.source.text == one.source.text
        assert other.failure(library) is None


def test_what_is_emulated_in_place_of_a_large_batch_has_several_tiles() -> None:
    problem, config = Problem(64, 3, 3, 32, 21), replace(CLASSIFIER, images=3)
    smaller, program = smaller_program(problem, config, H200)
    assert smaller.batch < 10 and program.tiles >= 3 and program.ragged
    assert check_in_emulator(problem, config, H200).output > 0


def values(name: str) -> set[int]:
    return {getattr(one.config, name) for one in EXAMPLES}


def test_the_examples_reach_every_variant() -> None:
    assert values("images") >= {1, 2, 3, 4, 8, 16}
    assert values("stages") >= {2, 3, 4}
    assert values("warps_n") >= {1, 2, 4} and values("warps_k") >= {1, 2, 3, 4}
    assert values("parts") >= {1, 2, 3, 4}
    assert {(one.config.warps_n > 1, one.config.warps_k > 1) for one in EXAMPLES} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    assert {one.problem.dtype for one in EXAMPLES} == set(DTYPES)
    for groups in (True, False):
        steps = {one.config.slice > one.config.chunk for one in EXAMPLES if (one.config.warps_k > 1) == groups}
        assert steps == {True, False}, f"several steps when groups of warps are {groups}"
    # What lies behind the means in shared memory: sums of parts, or partial logits if those take more.
    behind = [(c.parts * c.images * p.channels * 4, logits_bytes(c)) for p, c in pairs()]
    assert {sums > logits for sums, logits in behind if logits} == {True, False}


def logits_bytes(config: ClassifierConfig) -> int:
    """Of the warp groups but the first: two 16 x 8 accumulators of 512 bytes for each block of a step."""
    return (config.warps_k - 1) * config.chunk // 16 * 2 * 512


def pairs() -> list[tuple[Problem, ClassifierConfig]]:
    return [(one.problem, one.config) for one in EXAMPLES]


def test_the_examples_reach_every_edge() -> None:
    assert {p.batch % c.images > 0 for p, c in pairs() if c.images > 1} == {True, False}, "images that there are not"
    assert {p.classes % 2 for p, _ in pairs()} == {0, 1}
    assert {p.classes % 16 > 0 for p, _ in pairs()} == {True, False}
    filled = [(-(-p.classes // 16) * 16, c) for p, c in pairs()]
    assert any(classes > c.slice for classes, c in filled), "several slices"
    assert any(classes % c.slice % c.chunk for classes, c in filled), "a step cut"
    assert any(0 < classes % c.slice <= c.slice - c.chunk for classes, c in filled), "a step without any class"
    assert any(c.parts > p.pixels for p, c in pairs()) and any(p.pixels % c.parts for p, c in pairs())
    assert any(p.pixels > 8 * c.parts for p, c in pairs()), "more than eight pixels a part"
    assert {p.pixels == 1 for p, _ in pairs()} == {True, False}


@st.composite
def problems(draw: st.DrawFn, max_flops: float, max_channels: int, max_classes: int) -> Problem:
    """Batch 1..40, size 1..20, within a budget of operations."""
    channels = 16 * draw(st.integers(1, max_channels // 16))
    classes = draw(st.integers(1, max_classes))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    one = Problem(1, height, width, channels, classes, draw(st.sampled_from(DTYPES)))
    return replace(one, batch=draw(st.integers(1, max(1, min(40, int(max_flops / one.flops))))))


@settings(REPEATABLE, max_examples=40)
@given(problem=problems(EMULATED_FLOPS, 256, 300), seed=SEEDS)
def test_random_problems_in_the_emulator(problem: Problem, seed: int) -> None:
    config = random_config(problem, H200, random.Random(seed), 64 * EMULATED_FLOPS)
    note(f"{problem}\n{config}")
    program = plan(problem, config, H200)
    library, case = build(render(program)), make_case(problem, seed)
    for completion in ("late", "random"):
        assert verify_in_emulator(case, program, library, seed=seed, completion=completion).output > 0


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_random_problems_on_the_gpu() -> None:
    device = find_device("cuda:0")
    candidates = random_candidates(GPU_PROBLEMS, problems(GPU_FLOPS, 1008, 5000))
    assert len(candidates) == GPU_PROBLEMS
    pairs = [(problem, random_config(problem, device, random.Random(n))) for n, (problem, _) in enumerate(candidates)]
    failures = failures_on_the_gpu(device, pairs)
    assert not failures, f"{len(failures)} of {GPU_PROBLEMS} fail:\n" + "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLASSIFIER_EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.launch import LoadedProgram

    one = CLASSIFIER_EXAMPLES[name]
    program, case = plan(one.problem, one.config, find_device("cuda:0")), make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
