"""The patchconv kernel for Hopper GPUs: its rules, its accounting by hand, and the kernel against float64."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convfirst_programs import RUNS
from layer_programs import ACTIVATIONS, DTYPES, LayerExample
from patchconv_programs import PATCHCONV_WGMMA_EXAMPLES, WGMMA
from test_patchconv_plan import stage

from kgen.blocks.patchconv import Problem, choices, config_from_json, draw, plan
from kgen.cases import make_case
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.emulator import build
from kgen.env import nvrtc_version
from kgen.errors import InfeasibleError
from kgen.render import render
from kgen.verify import verify_in_emulator, verify_on_gpu

H200 = find_device("h200")
EXAMPLES = list(PATCHCONV_WGMMA_EXAMPLES.values())
# 2 x 8 x 16 patches of 256 inputs.
PROBLEM = Problem(batch=2, height=16, width=32, channels=64, outputs=128, activation="silu")
CONFIG = replace(WGMMA, warpgroups=2, outputs=64, stages=4)


@pytest.mark.parametrize("name", PATCHCONV_WGMMA_EXAMPLES)
def test_a_variant_is_right_in_every_order(name: str) -> None:
    one = PATCHCONV_WGMMA_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    outputs = {verify_in_emulator(case, one.program, library, seed=seed, completion=how) for seed, how in RUNS}
    assert len(outputs) == 1, "the order of threads and copies must not change the result"
    assert 0 < outputs.pop().output <= case.bound.output


def test_a_slow_producing_warp_never_hangs_a_cluster() -> None:
    # Two items a CTA of six steps each, with five slots for four producing warps. Whatever the order of warps here, the
    # emulator complains if a slot could be freed twice while one of them has not looked.
    problem = Problem(batch=1, height=56, width=28, channels=96, outputs=192)
    one = LayerExample(problem, replace(WGMMA, outputs=192, stages=5, cluster=4), ctas=4)
    (kernel,) = one.program.kernels
    assert (kernel.work_items, kernel.grid, kernel.steps) == (8, 4, 6)
    assert one.failure(build(one.source)) is None


@pytest.mark.parametrize("name", ["remainders, outputs split", "steps over two rows", "clusters"])
def test_a_nan_pixel_reaches_its_patch_only(name: str) -> None:
    one = PATCHCONV_WGMMA_EXAMPLES[name]
    case, library = make_case(one.problem), build(one.source)
    x = case.images[case.index]
    clean = one.run(library, x, case.packed)
    x[-1, one.problem.patch - 1, one.problem.patch, 0] = np.nan
    own = np.zeros(clean.shape[:3], bool)
    own[-1, 0, 1] = True
    spoiled = one.run(library, x, case.packed)
    assert np.isfinite(clean).all() and np.isnan(spoiled[own]).all()
    assert np.array_equal(spoiled[~own], clean[~own])


def test_one_kernel_serves_every_batch() -> None:
    one = PATCHCONV_WGMMA_EXAMPLES["remainders, outputs split"]
    library = build(one.source)
    for batch in (1, 2, 7):
        other = replace(one, problem=replace(one.problem, batch=batch))
        assert other.source.text == one.source.text
        assert other.failure(library) is None


def test_the_examples_reach_every_variant_and_edge() -> None:
    assert {one.config.warpgroups for one in EXAMPLES} == {1, 2, 3}
    assert {one.config.cluster for one in EXAMPLES} == {1, 2, 4}
    assert {one.config.stages for one in EXAMPLES} >= {2, 4, 6}, "fewer slots than warps that fill them, as many, more"
    assert {(one.config.deferred, one.problem.residual) for one in EXAMPLES} >= {(True, True), (False, True)}
    assert {one.problem.patch for one in EXAMPLES} == {1, 2, 4}
    assert {one.problem.activation for one in EXAMPLES} == set(ACTIVATIONS)
    assert {one.problem.dtype for one in EXAMPLES} == set(DTYPES)
    assert {one.problem.patch * one.problem.channels % 64 > 0 for one in EXAMPLES} == {True, False}
    kernels = [one.program.kernels[0] for one in EXAMPLES]
    assert {kernel.steps > 1 for kernel in kernels} == {True, False}
    assert {kernel.work_items > kernel.grid for kernel in kernels} == {True, False}
    assert {one.config.outputs < one.problem.outputs for one in EXAMPLES} == {True, False}
    tiles = [(one.program.tiles * 64 * one.config.warpgroups, one.problem.patches) for one in EXAMPLES]
    assert any(covered - patches >= 64 for covered, patches in tiles), "a tile beyond the tensor"


@pytest.mark.parametrize(
    ("changes", "rule", "sentence"),
    [
        ({"warpgroups": 4}, "warpgroups", "warpgroups must be one of (1, 2, 3), but got warpgroups=4; choose"),
        ({"cluster": 3}, "cluster", "cluster must be one of (1, 2, 4), but got cluster=3; choose one of them"),
        ({"stages": 1}, "stages", "stages must be >= 2, one slot read while another fills, but got 1; use 4"),
        ({"outputs": 48}, "outputs", "outputs must be a multiple of 32, but got outputs=48; use 32"),
        ({"outputs": 96}, "outputs", "outputs must divide the outputs of the layer (128), but got outputs=96; choose"),
        (
            {"outputs": True},
            "outputs",
            "outputs must be an integer >= 1, but got outputs=True; pass",
        ),
        ({"deferred": 1}, "deferred", "deferred must be True or False, but got deferred=1; pass a bool"),
        ({"sigmoid": "erf"}, "sigmoid", "sigmoid must be one of ('exp2', 'tanh'), but got sigmoid='erf'; choose one"),
        ({"stages": 64}, "shared_memory", "a CTA's shared memory must be at most 232448 bytes on h200, but the config"),
    ],
    ids=str,
)
def test_a_broken_rule_is_named_with_values_and_next_step(changes: dict[str, Any], rule: str, sentence: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(PROBLEM, replace(CONFIG, **changes), H200)
    assert caught.value.rule == rule
    assert str(caught.value).startswith(sentence)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "device"),
    [
        (Problem(2, 8, 8, 3, 32, 4), "h200"),
        (Problem(2, 8, 8, 48, 32, 1), "h200"),
        (Problem(2, 8, 8, 64, 48, 2), "h200"),
        (PROBLEM, "a100"),
    ],
    ids=["image", "inputs", "outputs", "device"],
)
def test_what_the_kernel_cannot_compute_is_refused_and_not_proposed(problem: Problem, device: str) -> None:
    with pytest.raises(InfeasibleError, match=r"the wgmma kernel needs a Hopper GPU .* use boundary='portable'"):
        plan(problem, replace(CONFIG, outputs=16), find_device(device))
    assert set(choices(problem, find_device(device))) == {"portable"}


def test_accounting_by_hand() -> None:
    program = plan(PROBLEM, CONFIG, H200)
    (kernel,) = program.kernels
    # A slot holds 64 inputs of 128 pixels and to 64 outputs; then come biases, barriers and, from a multiple of
    # 16 on, where the pixels' patches begin, for each of four warps.
    assert kernel.shared_bytes == 4 * 128 * (128 + 64) + 4 * 128 + 9 * 8 + 8 + 4 * 4 * 128
    assert (kernel.threads, kernel.work_items, kernel.grid, kernel.steps) == (384, 4, 4, 4)
    assert (program.arch, program.tiles, program.ragged, program.workspace_bytes) == ("sm_90a", 2, False, 0)
    matmul, load, store = (stage(kernel, kind) for kind in ("matmul", "load", "store"))
    assert matmul.issued_flops == matmul.flops == PROBLEM.flops == 2 * 256 * 256 * 128
    assert matmul.unit == "wgmma"
    slots = 4 * 4 * 128 * (128 + 64)
    assert load.l2_bytes == load.shared_bytes == slots
    assert matmul.shared_bytes == slots + 4 * 2 * 64 * 256, "the second warpgroup reads the weights, too"
    assert load.dram_bytes == 2 * 256 * 256 + 2 * 256 * 128
    assert store.dram_bytes == 2 * 256 * 128
    assert program.dram_bytes == PROBLEM.min_dram_bytes - 4 * 128, "but for the bias"
    (pair,) = plan(PROBLEM, replace(CONFIG, cluster=2), H200).kernels
    assert stage(pair, "load").l2_bytes == 4 * 4 * 128 * (128 + 32), "each of two CTAs loads half of the weights"


def test_configs_of_both_sides_are_drawn_and_come_back_from_json() -> None:
    rng = random.Random(0)
    drawn = [config for config in (draw(PROBLEM, H200, rng) for _ in range(100)) if config is not None]
    assert {config.boundary for config in drawn} == {"portable", "wgmma"}
    for config in drawn:
        plan(PROBLEM, config, H200)
        assert config_from_json(config.to_json()) == config


@pytest.mark.skipif(nvrtc_version() is None, reason="NVRTC is not installed")
@pytest.mark.parametrize(("warpgroups", "outputs", "deferred"), [(2, 256, False), (3, 192, False), (3, 128, True)])
def test_the_largest_tiles_compile_without_spills_that_matter(warpgroups: int, outputs: int, deferred: bool) -> None:
    problem = Problem(32, 14, 14, 384, 768)
    config = replace(WGMMA, warpgroups=warpgroups, outputs=outputs, deferred=deferred, stages=3)
    program = plan(problem, config, H200)
    cubin = compile_cubin(render(program), program.arch)
    (resources,) = cubin.resources.values()
    assert not cubin.serialized
    assert resources.spill_store_bytes <= 32


@pytest.mark.gpu
@pytest.mark.parametrize("name", PATCHCONV_WGMMA_EXAMPLES)
def test_a_variant_is_right_on_the_gpu(name: str) -> None:
    from kgen.launch import LoadedProgram

    one, device = PATCHCONV_WGMMA_EXAMPLES[name], find_device("cuda:0")
    few = device if one.ctas is None else replace(device, sms=one.ctas)
    program, case = plan(one.problem, one.config, few), make_case(one.problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output
