"""The plan of convfirst's cluster kernels: its rules, its accounting against numbers by hand, and what compiles."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_programs import CLUSTER, CLUSTER_EXAMPLES
from convfirst_programs import H200
from test_convfirst_plan import (
    CONV_FLOPS,
    CONV_WEIGHTS,
    MATMUL_FLOPS,
    MATMUL_WEIGHTS,
    PROBLEM,
    X_BYTES,
    assert_useful_flops_add_up,
    stage,
)

from kgen.blocks.convfirst import Problem, choices, cluster, draw, plan
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.env import nvrtc_version
from kgen.errors import CompileError, InfeasibleError
from kgen.render import render

NEEDS_NVRTC = pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
# 256 pixels of 64 channels, 128 hidden: six tiles of 48 pixels, the last cut, each of two clusters of four CTAs.
FOUR = replace(
    CLUSTER, cluster=4, pixels=48, hidden_split=2, warps=6, expand_warps_k=2, project_warps_k=2, sigmoid="exp2"
)

BROKEN = [
    ({"cluster": 0}, {}, "cluster", "cluster must be an integer >= 1, but got cluster=0"),
    ({"pixels": 2.5}, {}, "pixels", "an integer >= 1, but got pixels=2.5"),
    ({"hidden_split": "2"}, {}, "hidden_split", "an integer >= 1, but got hidden_split='2'"),
    ({"warps": True}, {}, "warps", "an integer >= 1, but got warps=True"),
    ({"expand_warps_k": -1}, {}, "expand_warps_k", "an integer >= 1, but got expand_warps_k=-1"),
    ({"project_warps_k": None}, {}, "project_warps_k", "an integer >= 1, but got project_warps_k=None"),
    ({"sigmoid": "erf"}, {}, "sigmoid", "one of exp2, tanh, but got sigmoid='erf'"),
    ({"cluster": 1}, {}, "cluster", "from 2 to 8 CTAs, but got cluster=1; use 2, 4 or 8"),
    ({"cluster": 16}, {"channels": 512}, "cluster", "from 2 to 8 CTAs, but got cluster=16"),
    ({"hidden_split": 32}, {}, "hidden_split", "at most 16, but got hidden_split=32; use 8 or 16"),
    ({"cluster": 3}, {}, "cluster", "divide channels / 16 (4), but got cluster=3; choose from (1, 2, 4)"),
    ({"hidden_split": 3}, {}, "hidden_split", "divide hidden / 16 (8), but got hidden_split=3"),
    ({"hidden_split": 16}, {}, "hidden_split", "hidden / 16 (8), but got hidden_split=16; choose from (1, 2, 4, 8)"),
    ({"hidden_split": 4}, {}, "cluster", "divide hidden / hidden_split / 16 (2), but got cluster=4"),
    ({"warps": 4}, {}, "warps", "warps must be a multiple of 3, but got warps=4"),
    ({"warps": 18}, {}, "warps", "warps must be at most 16, but got warps=18; use 4 or 8"),
    ({"expand_warps_k": 4}, {}, "expand_warps_k", "divide warps (6), but got expand_warps_k=4"),
    (
        *({"expand_warps_k": 3}, {"channels": 192}, "expand_warps_k"),
        "expand_warps_k must divide cluster, 4, or be a multiple of it by a divisor of 3, the blocks of 16 inputs that "
        "a CTA makes, but got expand_warps_k=3; use 1 or 4",
    ),
    ({"project_warps_k": 12, "warps": 12}, {}, "project_warps_k", "by a divisor of 1, the blocks of 16 inputs that"),
    (
        *({"cluster": 2, "pixels": 64, "warps": 4, "expand_warps_k": 1, "hidden_split": 1}, {"channels": 256}),
        *("registers", "at most 255 registers with 4 warps, but expand needs about"),
    ),
    ({}, {"width": 4000}, "shared_memory", "at most 232448 bytes on h200, but the config needs 4"),
]


@pytest.mark.parametrize(("changes", "asked", "rule", "words"), BROKEN, ids=lambda value: str(value)[:48])
def test_a_broken_rule_is_named_with_values_and_next_step(
    changes: dict[str, Any], asked: dict[str, Any], rule: str, words: str
) -> None:
    problem, config = replace(PROBLEM, **asked), replace(FOUR, **changes)
    with pytest.raises(InfeasibleError) as caught:
        plan(problem, config, H200)
    message = str(caught.value)
    assert caught.value.rule == rule, message
    assert words in message
    assert "; " in message and "\n" not in message


@pytest.mark.parametrize(
    ("changes", "asked", "found"),
    [
        ({}, {}, {}),
        ({"expand_warps_k": 4}, {}, {"expand_warps_k": 1, "project_warps_k": 1}),
        (
            {"cluster": 2, "pixels": 64, "warps": 4, "expand_warps_k": 1, "hidden_split": 1},
            {"channels": 256},
            {"cluster": 4, "warps": 8, "project_warps_k": 1},
        ),
        ({}, {"channels": 80}, {"cluster": 5, "expand_warps_k": 1, "project_warps_k": 1}),
        ({}, {"channels": 176}, None),
        ({}, {"width": 4000}, None),
    ],
    ids=["feasible", "warps along k", "registers", "five CTAs", "channels", "shared memory"],
)
def test_what_breaks_a_rule_is_relaxed_step_by_step(
    changes: dict[str, Any], asked: dict[str, Any], found: dict[str, Any] | None
) -> None:
    problem, config = replace(PROBLEM, **asked), replace(FOUR, **changes)
    assert cluster.relax(problem, config, H200) == (None if found is None else replace(config, **found))


def test_gpus_without_clusters_have_no_such_side() -> None:
    for name in ("a100", "rtx3090", "l4", "rtx4090"):
        device = find_device(name)
        assert "cluster" not in choices(PROBLEM, device)
        with pytest.raises(
            InfeasibleError, match=rf"compute capability 9.0 or later, but {name} is {device.arch};"
        ) as e:
            plan(PROBLEM, FOUR, device)
        assert e.value.rule == "arch"
        assert cluster.relax(PROBLEM, FOUR, device) is None
    for name in ("h100", "h200", "b200", "rtx5090"):
        assert "cluster" in choices(PROBLEM, find_device(name))


def test_clusters_are_for_few_pixels_of_channels_that_they_can_share() -> None:
    def has(batch: int, size: int, channels: int) -> bool:
        return "cluster" in choices(Problem(batch, size, size, channels), H200)

    assert has(1, 56, 64) and has(1, 7, 512) and has(64, 7, 64) and has(1, 1, 32)
    assert not has(2, 56, 64), "the tiles of 64 pixels of 2 x 3136, for two CTAs each, are more than the SMs"
    assert not has(1, 14, 16), "there is nothing to share"
    assert not has(1, 7, 176), "11 CTAs are too many"
    assert not cluster.choices(Problem(1, 7, 7, 32, expansion=1.5), H200), "2 divides 32 / 16, but not 48 / 16"
    (side,) = cluster.choices(Problem(1, 7, 7, 192, expansion=4 / 3), H200).values()
    assert side["cluster"] == (2, 4), "3 divides 192 / 16, but not 256 / 16"


def test_choices_are_legal_one_by_one_and_draws_together() -> None:
    problem = Problem(1, 14, 14, 256)
    (side,) = cluster.choices(problem, H200).values()
    assert side["cluster"] == (2, 4, 8)
    assert {16, 20, 49, 64} <= set(side["pixels"]) and max(side["pixels"]) == 64
    assert side["expand_warps_k"] == side["project_warps_k"] == (1, 2, 4, 8, 16)
    assert cluster.choices(Problem(1, 2, 2, 96, expansion=1), H200)["cluster"]["pixels"][:4] == (1, 2, 4, 16)
    rng = random.Random(0)
    drawn = [cluster.draw(side, rng) for _ in range(500)]
    relaxed = [config for config in (cluster.relax(problem, one, H200) for one in drawn) if config is not None]
    assert len(set(relaxed) & set(drawn)) > 20, "draws are feasible as they are"
    for config in relaxed:
        assert cluster.relax(problem, config, H200) == config
        plan(problem, config, H200)
    for name, values in side.items():
        assert {getattr(config, name) for config in drawn} == set(values)
    everywhere = [draw(problem, H200, rng) for _ in range(200)]
    assert any(config is not None and config.boundary == "cluster" for config in everywhere)


BIASES = 4 * (2 * 64 + 128)


def test_accounting_by_hand() -> None:
    program = plan(PROBLEM, FOUR, H200)
    assert_useful_flops_add_up(program)
    main, total = program.kernels
    # Six tiles compute 288 pixels; both clusters of a tile convolve it, with taps padded from 9 to 10.
    assert stage(main, "conv").issued_flops == CONV_FLOPS * 80 // 72 * 2 * 288 // 256
    assert sum(one.issued_flops for one in main.stages if one.kind == "matmul") == 2 * MATMUL_FLOPS * 288 // 256
    assert {one.unit for one in main.stages if one.kind == "matmul"} == {"mma"}
    assert stage(main, "activate").special == 2 * 288 * 128
    assert program.dram_bytes == 2 * X_BYTES + CONV_WEIGHTS + 2 * MATMUL_WEIGHTS + BIASES
    # A cluster loads its tile with a halo of 17 pixels on either side, each of its CTAs a quarter of the weights.
    x, weights, bias = 2 * (48 + 2 * 17) * 64, 2560 + 2 * 2 * 16 * 64, 4 * (16 + 16 + 16)
    assert stage(main, "load").l2_bytes == 12 * x + 48 * (weights + bias)
    share = next(one for one in main.stages if one.name == "share z and h")
    assert share.shared_bytes == share.distributed_bytes == 48 * 2 * 48 * (64 + 64)
    # Rows of 16 elements take 48 bytes, those of 16 sums 96. h of four slices takes more than x, a zero pixel and the
    # conv weights.
    h = z = 4 * 48 * 48
    assert h > (48 + 2 * 17 + 1) * 48 + 2560
    sums, expand, project, barriers = 2 * 48 * 96, 2 * 64 * 16, 2 * 64 * 16, 8 * (4 + 2 * 3)
    assert main.shared_bytes == h + z + expand + project + sums + bias + barriers
    assert (main.grid, main.work_items, main.cluster, main.threads, main.steps) == (48, 48, 4, 192, 16)
    assert main.begins_early and total.begins_early
    # Two clusters' parts of y, and x for the residual.
    stored = next(one for one in main.stages if one.name == "store sums")
    assert program.workspace_bytes == stored.l2_bytes == stage(total, "load").l2_bytes == 2 * 4 * 256 * 64
    assert (total.grid, total.threads, total.cluster) == (256 * 64 // 8 // 128, 128, 1)
    assert total.shared_bytes == 128 * 2 * 32, "both parts of 8 outputs for each thread"
    assert stage(total, "store").l2_bytes == 2 * X_BYTES
    assert (program.tiles, program.ragged, program.arch) == (6, True, "sm_90")


def test_project_weights_without_room_come_late() -> None:
    whole = plan(PROBLEM, FOUR, H200)
    turn = 2 * 16 * 16
    assert whole.constants["EARLY"] == 4
    for late in range(1, 5):
        room = whole.kernels[0].shared_bytes - late * turn
        program = plan(PROBLEM, FOUR, replace(H200, shared_per_cta_bytes=room + turn - 1))
        assert (program.constants["EARLY"], program.kernels[0].shared_bytes) == (4 - late, room)
    with pytest.raises(InfeasibleError, match=f"at most {room - 1} bytes on h200, but the config needs {room};"):
        plan(PROBLEM, FOUR, replace(H200, shared_per_cta_bytes=room - 1))


def test_a_cluster_that_has_all_hidden_channels_needs_no_second_kernel() -> None:
    program = plan(PROBLEM, replace(FOUR, hidden_split=1), H200)
    assert_useful_flops_add_up(program)
    (main,) = program.kernels
    assert (program.workspace_bytes, main.grid, main.cluster) == (0, 24, 4)
    assert main.total("dram_bytes") == program.dram_bytes == 2 * X_BYTES + CONV_WEIGHTS + 2 * MATMUL_WEIGHTS + BIASES
    assert stage(main, "conv").issued_flops == CONV_FLOPS * 80 // 72 * 288 // 256
    # The residual is x that the CTA has in shared memory.
    assert [one.l2_bytes for one in main.stages if one.name == "residual and store y"] == [X_BYTES]


def test_a_grid_has_whole_clusters() -> None:
    for one in CLUSTER_EXAMPLES.values():
        config, program = one.config, one.program
        main = program.kernels[0]
        assert main.grid == program.tiles * main.cluster * config.hidden_split
        assert main.cluster == config.cluster
        assert len(program.kernels) == 1 + (config.hidden_split > 1)


@NEEDS_NVRTC
def test_the_kernels_agree_with_the_plan_on_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their static_assert, which fails if the plan counts anything else."""
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    rng = random.Random(3)
    tested = [(PROBLEM, FOUR)]
    for shape in ((1, 56, 56, 64), (1, 28, 28, 128), (1, 14, 14, 256), (1, 7, 7, 512), (2, 5, 3, 96)):
        problem = Problem(*shape)
        (side,) = cluster.choices(problem, H200).values()
        drawn = (cluster.draw(side, rng) for _ in range(1000))
        tested.append((problem, next(one for one in drawn if cluster.relax(problem, one, H200) == one)))
    for problem, config in tested:
        program = plan(problem, config, H200)
        cubin = compile_cubin(render(program), program.arch)
        assert set(cubin.resources) == {kernel.symbol for kernel in program.kernels}
        for kernel in program.kernels:
            found = cubin.resources[kernel.symbol]
            assert (found.spill_store_bytes, found.spill_load_bytes, found.static_shared_bytes) == (0, 0, 0), config
            assert found.registers * kernel.threads <= H200.registers_per_sm
    wrong = plan(PROBLEM, FOUR, H200)
    wrong = replace(wrong, constants=wrong.constants | {"SHARED_BYTES": int(wrong.constants["SHARED_BYTES"]) + 16})
    with pytest.raises(CompileError) as caught:
        compile_cubin(render(wrong), wrong.arch)
    assert "disagree" in caught.value.log


@NEEDS_NVRTC
@pytest.mark.parametrize("device", ["h100", "b200", "rtx5090"])
def test_every_architecture_with_clusters_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    program = plan(PROBLEM, FOUR, find_device(device))
    cubin = compile_cubin(render(program), program.arch)
    assert set(cubin.resources) == {"convfirst_cluster", "convfirst_cluster_sum"}
    assert all(found.spill_store_bytes == 0 for found in cubin.resources.values())
