"""The plan of convfirst's Hopper kernels: its rules, its accounting against numbers by hand, and what compiles."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_programs import CLUSTER
from convfirst_programs import FUSED as FUSED_PORTABLE
from convfirst_programs import SPLIT
from test_convfirst_plan import (
    CONV_FLOPS,
    CONV_WEIGHTS,
    MATMUL_FLOPS,
    PROBLEM,
    X_BYTES,
    assert_useful_flops_add_up,
    stage,
)
from wgmma_programs import WGMMA_FUSED, WGMMA_LAYERS

from kgen.blocks.convfirst import Problem, choices, default_config, draw, plan, wgmma
from kgen.blocks.convfirst.config import WgmmaConfig
from kgen.blocks.convfirst.stages import MMA_FLOPS
from kgen.blocks.pointwise_wgmma import PRODUCER_REGISTERS, consumer_registers
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.env import nvrtc_version
from kgen.errors import InfeasibleError
from kgen.machine import attainable_efficiency, attainable_us, ideal_us
from kgen.render import render

H200 = find_device("h200")
NEEDS_NVRTC = pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
TUNED_SHAPES = ((64, 56), (96, 56), (128, 28), (192, 28), (256, 14), (384, 14), (512, 7), (768, 7))
# 256 pixels, 64 channels, 128 hidden: two tiles of 192 pixels, the second cut.
FUSED = replace(WGMMA_FUSED, warpgroups=3, hidden_chunk=32, weight_slots=4, x_slots=2)
LAYERS = replace(WGMMA_LAYERS, expand_warpgroups=2, expand_stages=3, project_outputs=32, project_stages=2)

BROKEN = [
    (FUSED, {"warpgroups": 0}, {}, "warpgroups", "warpgroups must be an integer >= 1, but got warpgroups=0"),
    (FUSED, {"warpgroups": 4}, {}, "warpgroups", "one of (1, 2, 3), but got warpgroups=4"),
    (FUSED, {"x_slots": 0}, {}, "x_slots", "x_slots must be an integer >= 1, but got x_slots=0"),
    (FUSED, {"hidden_chunk": -16}, {}, "hidden_chunk", "must be an integer >= 1, but got hidden_chunk=-16"),
    (FUSED, {"hidden_chunk": "32"}, {}, "hidden_chunk", "an integer >= 1, but got hidden_chunk='32'"),
    (FUSED, {"weight_slots": 2.5}, {}, "weight_slots", "an integer >= 1, but got weight_slots=2.5"),
    (FUSED, {"warpgroups": True}, {}, "warpgroups", "an integer >= 1, but got warpgroups=True"),
    (FUSED, {"overlap": 1}, {}, "overlap", "True or False, but got overlap=1"),
    (LAYERS, {"project_deferred": None}, {}, "project_deferred", "True or False, but got project_deferred=None"),
    (LAYERS, {"conv_images": 0}, {}, "conv_images", "an integer >= 1, but got conv_images=0"),
    (FUSED, {"cluster": 3}, {}, "cluster", "cluster must be one of (1, 2, 4), but got cluster=3; choose one of them"),
    (LAYERS, {"expand_cluster": 8}, {}, "expand_cluster", "one of (1, 2, 4), but got expand_cluster=8"),
    (LAYERS, {"project_cluster": 0}, {}, "project_cluster", "an integer >= 1, but got project_cluster=0"),
    (FUSED, {"conv_reuse": "columns"}, {}, "conv_reuse", "one of rows, none, but got conv_reuse='columns'"),
    (FUSED, {"conv_reuse": "rows"}, {"width": 12}, "conv_reuse", "a width in multiples of 8, a height in mult"),
    (FUSED, {"conv_reuse": "rows"}, {"height": 7}, "conv_reuse", "but got width=16, height=7, conv_output='registers'"),
    (
        FUSED,
        {"conv_reuse": "rows", "conv_output": "shared"},
        {},
        "conv_reuse",
        "conv_output='shared'; use conv_reuse='",
    ),
    (FUSED, {"conv_reuse": "rows", "warpgroup_pixels": 128}, {"height": 6}, "conv_reuse", "a height in multiples of 4"),
    (FUSED, {"warpgroup_pixels": 96}, {}, "warpgroup_pixels", "must be one of (64, 128), and 64 unless"),
    (
        FUSED,
        {"warpgroup_pixels": 128, "conv_output": "shared"},
        {},
        "warpgroup_pixels",
        "but got warpgroup_pixels=128 with conv_output='shared'; use 64",
    ),
    (FUSED, {"sigmoid": "erf"}, {}, "sigmoid", "one of exp2, tanh, but got sigmoid='erf'"),
    (FUSED, {"conv_output": "l2"}, {}, "conv_output", "one of registers, shared, but got conv_output='l2'"),
    (
        FUSED,
        {},
        {"channels": 272},
        "channels",
        "at most 256 channels, one instruction's columns, but the problem has 272",
    ),
    (FUSED, {"hidden_chunk": 24}, {}, "hidden_chunk", "multiple of 16, but got hidden_chunk=24"),
    (
        FUSED,
        {"hidden_chunk": 272},
        {},
        "hidden_chunk",
        "at most 256, one instruction's columns, but got hidden_chunk=272",
    ),
    (FUSED, {"hidden_chunk": 48}, {}, "hidden_chunk", "divide hidden (128), but got hidden_chunk=48"),
    (FUSED, {"hidden_chunk": 128}, {}, "hidden_chunk", "128 hidden channels at least in two, but got hidden_chunk=128"),
    (
        FUSED,
        {"weight_slots": 1},
        {},
        "weight_slots",
        "from 2 to 8, a slot for every chunk, but got weight_slots=1; use 4",
    ),
    (FUSED, {"weight_slots": 9}, {}, "weight_slots", "from 2 to 8, a slot for every chunk, but got weight_slots=9"),
    (FUSED, {"x_slots": 8}, {}, "shared_memory", "at most 232448 bytes on h200, but the config needs 289"),
    (
        *(
            replace(FUSED, warpgroups=1, x_slots=1, weight_slots=2),
            {"hidden_chunk": 64},
            {"channels": 256},
            "registers",
        ),
        "at most 240 registers with 1 warpgroups, but the config needs about 2",
    ),
    (LAYERS, {"expand_warpgroups": 4}, {}, "expand_warpgroups", "one of (1, 2, 3), but got expand_warpgroups=4"),
    (LAYERS, {"project_warpgroups": 0}, {}, "project_warpgroups", "an integer >= 1, but got project_warpgroups=0"),
    (LAYERS, {"sigmoid": None}, {}, "sigmoid", "one of exp2, tanh, but got sigmoid=None"),
    (LAYERS, {}, {"channels": 96}, "channels", "in multiples of 64, but the problem has 96 and 192"),
    (LAYERS, {}, {"expansion": 1.5}, "channels", "in multiples of 64, but the problem has 64 and 96"),
    (LAYERS, {"expand_outputs": 48}, {}, "expand_outputs", "multiple of 32, but got expand_outputs=48"),
    (LAYERS, {"project_outputs": 16}, {}, "project_outputs", "multiple of 32, but got project_outputs=16"),
    (LAYERS, {"expand_outputs": 288}, {}, "expand_outputs", "at most 256, one instruction's columns"),
    (LAYERS, {"expand_outputs": 96}, {}, "expand_outputs", "the outputs of expand (128), but got expand_outputs=96"),
    (
        LAYERS,
        {"project_outputs": 128},
        {},
        "project_outputs",
        "the outputs of project (64), but got project_outputs=128",
    ),
    (LAYERS, {"expand_stages": 1}, {}, "expand_stages", "expand_stages must be >= 2"),
    (LAYERS, {"project_stages": 1}, {}, "project_stages", "project_stages must be >= 2"),
    (
        *(LAYERS, {"expand_outputs": 256, "expand_deferred": True}, {"expansion": 4}, "expand_deferred"),
        "two sets of accumulators, of at most 128 outputs, but got expand_outputs=256",
    ),
    (LAYERS, {"conv_rows": 3}, {}, "conv_rows", "divide height (8), but got conv_rows=3; choose from (1, 2, 4, 8)"),
    (LAYERS, {"conv_rows": 64}, {"height": 64}, "conv_rows", "at most 32, so that their loop can be unrolled, but got"),
    (
        LAYERS,
        {"conv_rows": 4, "conv_images": 2},
        {},
        "conv_images",
        "height, 8, but got conv_images=2 with conv_rows=4",
    ),
    (LAYERS, {"conv_channels": 48}, {}, "conv_channels", "one of (16, 32, 64), but got conv_channels=48"),
    (LAYERS, {"conv_warps": 12}, {}, "conv_warps", "multiple of 8, but got conv_warps=12"),
    (LAYERS, {"conv_warps": 24}, {}, "conv_warps", "at most 16, whose registers an SM has, but got conv_warps=24"),
    (LAYERS, {"conv_stages": 1}, {}, "conv_stages", "conv_stages must be >= 2"),
    (
        LAYERS,
        {"conv_rows": 8},
        {"width": 100},
        "conv_shared_memory",
        "at most 232448 bytes on h200, but the config needs",
    ),
    (
        LAYERS,
        {"expand_stages": 10},
        {},
        "expand_shared_memory",
        "at most 232448 bytes on h200, but the config needs 246",
    ),
    (
        LAYERS,
        {"project_stages": 20},
        {},
        "project_shared_memory",
        "at most 232448 bytes on h200, but the config needs 2",
    ),
]


@pytest.mark.parametrize(("base", "changes", "asked", "rule", "words"), BROKEN, ids=lambda value: str(value)[:48])
def test_a_broken_rule_is_named_with_values_and_next_step(
    base: WgmmaConfig, changes: dict[str, Any], asked: dict[str, Any], rule: str, words: str
) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(replace(PROBLEM, **asked), replace(base, **changes), H200)
    message = str(caught.value)
    assert caught.value.rule == rule
    assert words in message
    assert "; " in message and "\n" not in message


@pytest.mark.parametrize("config", [FUSED, LAYERS], ids=lambda config: config.boundary)
def test_no_other_gpu_has_the_hopper_sides(config: WgmmaConfig) -> None:
    for name in ("a100", "rtx3090", "l4", "rtx4090", "b200", "rtx5090"):
        device = find_device(name)
        assert not wgmma.choices(PROBLEM, device)
        assert not any(side.startswith("wgmma") for side in choices(PROBLEM, device))
        rng = random.Random(0)
        drawn = [one for one in (draw(PROBLEM, device, rng) for _ in range(40)) if one is not None]
        assert drawn and not any(one.boundary.startswith("wgmma") for one in drawn)
        with pytest.raises(
            InfeasibleError, match=rf"need a Hopper GPU \(sm_90\), but {name} is {device.arch}"
        ) as caught:
            plan(PROBLEM, config, device)
        assert caught.value.rule == "arch"
        assert wgmma.relax(PROBLEM, config, device) is None


def test_hopper_has_both_sides_where_the_channels_allow() -> None:
    sides = {
        channels: [side for side in choices(Problem(1, 7, 7, channels), H200) if side.startswith("wgmma")]
        for channels in (16, 64, 96, 256, 272, 320)
    }
    fused, layers = "wgmma_fused", "wgmma_layers"
    assert sides == {
        16: [fused],
        64: [fused, layers],
        96: [fused, layers][:1],
        256: [fused, layers],
        272: [],
        320: [layers],
    }
    assert all(choices(Problem(1, 7, 7, 64), find_device("h100"))[side] for side in (fused, layers))


@pytest.mark.parametrize("warpgroups", [1, 2, 3])
def test_the_shares_of_registers_fit_what_a_kernel_starts_with(warpgroups: int) -> None:
    """setmaxnreg hangs when the shares of all warpgroups exceed the registers that the CTA was given."""
    threads = 128 * (warpgroups + 1)
    at_entry = min(255, 65536 // threads) // 8 * 8
    consumers = consumer_registers(warpgroups)
    assert consumers % 8 == PRODUCER_REGISTERS % 8 == 0
    assert PRODUCER_REGISTERS <= at_entry <= consumers <= 240 or warpgroups == 1
    assert 128 * (warpgroups * consumers + PRODUCER_REGISTERS) <= at_entry * threads <= 65536


# Two images of 8 x 16 pixels: 256 pixels. 64 channels, 128 hidden.
PIXELS = 256
MATRICES = 2 * 2 * 64 * 128
BIASES = 4 * (2 * 64 + 128)
HALO_PIXELS = 192 + 2 * (16 + 1)


def test_fused_accounting_by_hand() -> None:
    program = plan(PROBLEM, FUSED, H200)
    assert_useful_flops_add_up(program)
    (kernel,) = program.kernels
    # Two tiles compute 384 pixels, and the conv's sum over taps is padded from 9 to 10.
    assert stage(kernel, "conv").issued_flops == CONV_FLOPS * 80 // 72 * 384 // 256
    assert kernel.total("issued_flops") == (CONV_FLOPS * 80 // 72 + 2 * MATMUL_FLOPS) * 384 // 256
    assert {one.unit for one in kernel.stages if one.kind == "matmul"} == {"wgmma"}
    assert stage(kernel, "activate").special == 2 * 384 * 128
    assert program.dram_bytes == 2 * X_BYTES + CONV_WEIGHTS + MATRICES + BIASES
    loads = 2 * HALO_PIXELS * 64 * 2 + 2 * (CONV_WEIGHTS + BIASES) + 2 * MATRICES
    assert stage(kernel, "load").l2_bytes == loads
    # Slots of 226 pixels, 144 bytes each, in units of 128 bytes; a zero pixel; conv weights and biases; in units of 128
    # bytes so far; four slots of 32 x 64 weights; barriers: the constants', 5 a slot of x, 2 a chunk.
    x_slots = 2 * -(-HALO_PIXELS * 144 // 128) * 128
    weights = -(-(x_slots + 144 + CONV_WEIGHTS + BIASES) // 128) * 128
    assert kernel.shared_bytes == weights + 4 * 2 * 32 * 64 + 8 * (1 + 5 * 2 + 2 * 4)
    assert (kernel.grid, kernel.work_items, kernel.threads, kernel.steps) == (2, 2, 512, 4)
    assert (program.tiles, program.ragged, program.arch, program.workspace_bytes) == (2, True, "sm_90a", 0)


def test_strips_by_hand() -> None:
    """Two images of 8 rows in two strips, 8 pixels wide and 24 rows high: 10 x 26 pixels with their halo."""
    program = plan(PROBLEM, replace(FUSED, conv_reuse="rows"), H200)
    (runs,) = plan(PROBLEM, FUSED, H200).kernels
    (strips,) = program.kernels
    assert (program.tiles, program.ragged, strips.grid) == (2, True, 2)
    assert stage(runs, "load").l2_bytes - stage(strips, "load").l2_bytes == 2 * (HALO_PIXELS - 260) * 64 * 2
    fragments = 384 // 16 * 64 // 8
    assert stage(runs, "conv").shared_bytes - stage(strips, "conv").shared_bytes == fragments * (5 - 3) * 512
    assert stage(runs, "conv").issued_flops == stage(strips, "conv").issued_flops
    assert strips.shared_bytes - runs.shared_bytes == 2 * (260 * 144 // 128 + 1 - -(-HALO_PIXELS * 144 // 128)) * 128


def test_hopper_kernels_begin_before_the_one_before_has_ended() -> None:
    for config in (FUSED, LAYERS):
        assert all(kernel.begins_early for kernel in plan(PROBLEM, config, H200).kernels)


def test_resident_weights_are_loaded_once_per_cta() -> None:
    one_sm = replace(H200, sms=1)
    (streamed,) = plan(PROBLEM, FUSED, one_sm).kernels
    (resident,) = plan(PROBLEM, replace(FUSED, weight_slots=8), one_sm).kernels
    assert streamed.grid == resident.grid == 1
    assert stage(streamed, "load").l2_bytes - stage(resident, "load").l2_bytes == MATRICES
    assert resident.shared_bytes - streamed.shared_bytes == 4 * (2 * 32 * 64 + 2 * 8)


def test_the_ctas_of_a_cluster_share_out_the_weights() -> None:
    (alone,) = plan(PROBLEM, FUSED, H200).kernels
    (pair,) = plan(PROBLEM, replace(FUSED, cluster=2), H200).kernels
    assert (pair.cluster, pair.grid, pair.work_items) == (2, 2, 2)
    assert stage(alone, "load").l2_bytes - stage(pair, "load").l2_bytes == MATRICES
    assert stage(alone, "load").shared_bytes == stage(pair, "load").shared_bytes
    # Two of four CTAs have no tile, but compute as if they had.
    (four,) = plan(PROBLEM, replace(FUSED, cluster=4), H200).kernels
    assert (four.cluster, four.grid, four.work_items) == (4, 4, 4)
    assert four.total("issued_flops") == 2 * pair.total("issued_flops")
    program = plan(PROBLEM, replace(LAYERS, expand_cluster=2, project_cluster=4), H200)
    conv, expand, project = program.kernels
    assert (conv.cluster, expand.cluster, project.cluster) == (1, 2, 4)
    assert stage(expand, "load").l2_bytes == 4 * 1 * 128 * (128 + 64 // 2)
    assert stage(expand, "load").shared_bytes == 4 * 1 * 128 * (128 + 64)
    assert stage(project, "load").l2_bytes == 8 * 2 * 128 * (64 + 32 // 4)
    # 256 pixels are two tiles of expand for four CTAs.
    wider = plan(PROBLEM, replace(LAYERS, expand_cluster=4), H200).kernels[1]
    assert (wider.grid, wider.work_items) == (8, 8)
    assert wider.total("issued_flops") == 2 * MATMUL_FLOPS


def test_a_grid_has_whole_clusters_that_fit_the_gpu() -> None:
    problem = replace(PROBLEM, batch=256)
    for sms, cluster, grid in ((132, 1, 132), (132, 4, 132), (131, 4, 128), (3, 2, 2), (1, 2, 2)):
        device = replace(H200, sms=sms)
        config = replace(LAYERS, expand_cluster=cluster, project_cluster=cluster)
        grids = {kernel.grid for kernel in plan(problem, config, device).kernels[1:]}
        assert grids == {plan(problem, replace(FUSED, cluster=cluster), device).kernels[0].grid} == {grid}


def test_z_in_shared_memory_is_read_there_for_every_chunk() -> None:
    (registers,) = plan(PROBLEM, FUSED, H200).kernels
    (shared,) = plan(PROBLEM, replace(FUSED, conv_output="shared"), H200).kernels
    expand = [next(one for one in kernel.stages if one.name == "expand") for kernel in (registers, shared)]
    assert expand[1].shared_bytes - expand[0].shared_bytes == 2 * 384 * 64 * (1 + 4)
    assert registers.accumulators - shared.accumulators == 64 // 4
    # In each slot of x, three warpgroups have a barrier each for having read it instead of one for all.
    assert shared.shared_bytes - registers.shared_bytes == 8 * (3 - 1) * 2
    assert stage(shared, "store") == stage(registers, "store")


def test_layers_convolution_by_hand() -> None:
    """An image has 16 columns: a pair of strips."""
    whole = plan(PROBLEM, replace(LAYERS, conv_rows=8), H200).kernels[0]
    # Of 5 mma a row of two strips, the image's first and last row need 4: their taps beyond it are zeros. A fragment
    # for each row's left and middle taps, and one for the right taps of each row and the zeros above.
    assert stage(whole, "conv").issued_flops == 2 * 8 * (5 * 8 - 2) * MMA_FLOPS
    assert stage(whole, "conv").shared_bytes == 2 * 8 * (8 + 9) * 512
    assert stage(whole, "load").l2_bytes == X_BYTES + whole.grid * CONV_WEIGHTS
    assert stage(whole, "store").l2_bytes == X_BYTES
    assert whole.total("dram_bytes") == X_BYTES + CONV_WEIGHTS
    # A slot has the rows of an image with a zero pixel before each, a row on either side, 144 bytes a pixel.
    assert whole.shared_bytes == 2 * (9 * 17 + 16 + 2) * 144
    assert (whole.grid, whole.work_items, whole.threads) == (2, 2, 256)
    # A tile of 4 rows loads 6, and a CTA has half of the channels.
    parts = plan(PROBLEM, replace(LAYERS, conv_rows=4, conv_channels=32), H200).kernels[0]
    assert stage(parts, "conv").issued_flops == CONV_FLOPS * 80 // 72
    assert stage(parts, "conv").shared_bytes == 2 * 2 * 8 * (6 + 5) * 512
    assert stage(parts, "load").l2_bytes == X_BYTES * 6 // 4 + parts.grid * CONV_WEIGHTS // 2
    assert parts.shared_bytes == 2 * (5 * 17 + 16 + 2) * 80
    assert (parts.grid, parts.work_items) == (2 * 4, 2 * 4)
    # Images of 4 x 4 fill half of a strip each.
    small = plan(Problem(4, 4, 4, 64), replace(LAYERS, conv_rows=4, conv_images=2), H200).kernels[0]
    assert stage(small, "conv").issued_flops == 2 * 8 * (5 * 4 - 2) * MMA_FLOPS
    assert small.shared_bytes == 2 * (2 * 5 * 5 + 8 + 2) * 144


def test_layers_matmuls_by_hand() -> None:
    program = plan(PROBLEM, LAYERS, H200)
    assert_useful_flops_add_up(program)
    _, expand, project = program.kernels
    assert [kernel.total("flops") for kernel in program.kernels] == [CONV_FLOPS, MATMUL_FLOPS, MATMUL_FLOPS]
    assert [kernel.total("issued_flops") for kernel in (expand, project)] == [MATMUL_FLOPS, MATMUL_FLOPS]
    assert [kernel.total("special") for kernel in program.kernels] == [0, 2 * PIXELS * 128, 0]
    z_bytes, hidden_bytes = 2 * PIXELS * 64, 2 * PIXELS * 128
    assert program.workspace_bytes == z_bytes + hidden_bytes
    assert expand.total("dram_bytes") == MATRICES // 2
    assert project.total("dram_bytes") == MATRICES // 2 + 2 * X_BYTES
    # Items of 128 pixels x 64 outputs, and of 64 x 32; their slots hold 64 input channels of both.
    assert stage(expand, "load").l2_bytes == 4 * 1 * 128 * (128 + 64)
    assert stage(project, "load").l2_bytes == 8 * 2 * 128 * (64 + 32)
    assert expand.shared_bytes == 3 * 128 * (128 + 64) + 4 * 128 + 8 * (1 + 2 * 3)
    assert project.shared_bytes == 2 * 128 * (64 + 32) + 4 * 64 + 8 * (1 + 2 * 2)
    assert (expand.grid, expand.work_items, expand.threads, expand.steps) == (4, 4, 384, 1)
    assert (project.grid, project.work_items, project.threads, project.steps) == (8, 8, 256, 2)


def test_float8_layers_by_hand() -> None:
    program = plan(replace(PROBLEM, matmul="float8"), LAYERS, H200)
    assert_useful_flops_add_up(program)
    conv, expand, project = program.kernels
    assert [stage(kernel, "matmul").unit for kernel in (expand, project)] == ["wgmma_float8"] * 2
    assert stage(conv, "conv").unit == "mma"
    # A byte for each element of z, of h and of the matrices.
    assert program.workspace_bytes == PIXELS * (64 + 128)
    assert stage(conv, "store").l2_bytes == PIXELS * 64
    assert stage(expand, "store").l2_bytes == PIXELS * 128
    assert expand.total("dram_bytes") == MATRICES // 4
    assert project.total("dram_bytes") == MATRICES // 4 + 2 * X_BYTES
    # Slots hold 64 bytes of inputs where 128 do not divide them: one step of each.
    assert stage(expand, "load").l2_bytes == 4 * 1 * 64 * (128 + 64)
    assert stage(project, "load").l2_bytes == 8 * 1 * 128 * (64 + 32)
    # Beside the bias of each output its scale, and that of h.
    assert expand.shared_bytes == 3 * 64 * (128 + 64) + 3 * 4 * 128 + 8 * (1 + 2 * 3)
    assert project.shared_bytes == 2 * 128 * (64 + 32) + 2 * 4 * 64 + 8 * (1 + 2 * 2)
    assert (expand.steps, project.steps) == (1, 1)


@pytest.mark.parametrize("base", [FUSED_PORTABLE, SPLIT, CLUSTER, FUSED], ids=lambda config: config.boundary)
def test_float8_is_for_the_layers_on_hopper_alone(base: Any) -> None:
    with pytest.raises(
        InfeasibleError, match=r"matmul must be 'storage' with boundary=.*use boundary='wgmma_layers'"
    ) as e:
        plan(replace(PROBLEM, matmul="float8"), base, H200)
    assert e.value.rule == "matmul"


@pytest.mark.parametrize("name", ["a100", "rtx4090", "b200"])
def test_float8_needs_hopper(name: str) -> None:
    problem, device = replace(PROBLEM, matmul="float8"), find_device(name)
    assert choices(problem, device) == {}
    for ask in (lambda: plan(problem, LAYERS, device), lambda: default_config(problem, device)):
        with pytest.raises(InfeasibleError, match=r"float8 matmuls need a Hopper GPU .*; use matmul='storage'"):
            ask()


def test_the_default_float8_config_is_feasible() -> None:
    for channels, size, expansion in ((64, 56, 4), (1024, 7, 8), (192, 1, 1), (128, 224, 2)):
        problem = Problem(2, size, size, channels, expansion=expansion, matmul="float8")
        assert plan(problem, default_config(problem, H200), H200).template == "convfirst_wgmma_layers.cu.j2"
        assert list(choices(problem, H200)) == ["wgmma_layers"]
        drawn = [draw(problem, H200, random.Random(seed)) for seed in range(20)]
        assert all(one is None or one.boundary == "wgmma_layers" for one in drawn)


def test_attainable_latency_has_float8_at_twice_the_rate() -> None:
    problem = Problem(256, 7, 7, 512)
    config = default_config(replace(problem, matmul="float8"), H200)
    fast = replace(H200, dram_bytes_per_s=1e30)
    plain, float8 = (attainable_us(plan(one, config, fast)) for one in (problem, replace(problem, matmul="float8")))
    conv_us = ideal_us(plan(problem, config, fast).kernels[0].total("flops"), fast)
    assert float8 - conv_us == pytest.approx((plain - conv_us) / 2)
    assert attainable_efficiency(plan(replace(problem, matmul="float8"), config, fast)) > 1.9


def test_a_partial_block_of_pixels_is_whole_in_the_workspace() -> None:
    program = plan(Problem(1, 5, 13, 64, expansion=2), LAYERS, H200)
    assert program.workspace_bytes == 2 * 128 * (64 + 128)
    assert program.ragged


def test_a_hidden_tensor_beyond_half_of_l2_goes_through_dram() -> None:
    in_l2 = plan(PROBLEM, LAYERS, H200)
    program = plan(PROBLEM, LAYERS, replace(H200, l2_bytes=2 * in_l2.workspace_bytes - 2))
    assert program.dram_bytes - in_l2.dram_bytes == 2 * program.workspace_bytes


KNOWN_GOOD = {
    "64 channels, 3 warpgroups, resident": (
        Problem(256, 56, 56, 64),
        replace(WGMMA_FUSED, warpgroups=3, hidden_chunk=64, weight_slots=8, sigmoid="tanh"),
    ),
    "128 channels, 2 warpgroups, 4 slots": (
        Problem(256, 28, 28, 128),
        replace(WGMMA_FUSED, warpgroups=2, hidden_chunk=64, weight_slots=4, sigmoid="tanh"),
    ),
    "512 channels, 3 x 128 x 5 twice": (
        Problem(256, 7, 7, 512),
        replace(
            WGMMA_LAYERS,
            conv_rows=7,
            expand_warpgroups=3,
            expand_outputs=128,
            expand_stages=5,
            project_warpgroups=3,
            project_outputs=128,
            project_stages=5,
            sigmoid="tanh",
        ),
    ),
}
VARIANTS = [
    *(
        (name, {"conv_output": z, "overlap": o, "x_slots": 1 + o})
        for name in list(KNOWN_GOOD)[:2]
        for z, o in (("registers", False), ("registers", True), ("shared", False), ("shared", True))
    ),
    *((list(KNOWN_GOOD)[2], {"expand_deferred": deferred}) for deferred in (False, True)),
]


@NEEDS_NVRTC
@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_known_good_configs_compile_without_spills_or_serialized_wgmma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    """The kernels' static_asserts compare their shared memory with the plan's."""
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    problem, config = KNOWN_GOOD[name]
    program = plan(problem, replace(config, **changes), H200)
    cubin = compile_cubin(render(program), program.arch)
    assert not cubin.serialized, cubin.log
    assert set(cubin.resources) == {kernel.symbol for kernel in program.kernels}
    for kernel in program.kernels:
        found = cubin.resources[kernel.symbol]
        assert (found.spill_store_bytes, found.spill_load_bytes) == (0, 0)
        assert found.registers * kernel.threads <= H200.registers_per_sm
        assert found.static_shared_bytes == 0


@NEEDS_NVRTC
def test_a_disagreement_on_shared_memory_does_not_compile() -> None:
    from kgen.errors import CompileError

    for config, name in ((FUSED, "SHARED_BYTES"), (LAYERS, "EXPAND_SHARED_BYTES"), (LAYERS, "CONV_SHARED_BYTES")):
        program = plan(PROBLEM, config, H200)
        wrong = replace(program, constants=program.constants | {name: int(program.constants[name]) + 16})
        with pytest.raises(CompileError) as caught:
            compile_cubin(render(wrong), program.arch)
        assert "disagree" in caught.value.log


@NEEDS_NVRTC
@pytest.mark.slow
@pytest.mark.parametrize("device", ["a100", "rtx3090", "l4", "b200", "rtx5090"])
def test_tuned_shapes_compile_on_every_other_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    target = find_device(device)
    for channels, size in TUNED_SHAPES:
        problem = Problem(256, size, size, channels)
        program = plan(problem, default_config(problem, target), target)
        cubin = compile_cubin(render(program), program.arch)
        assert set(cubin.resources) == {kernel.symbol for kernel in program.kernels}
        assert all(found.spill_store_bytes == 0 for found in cubin.resources.values())
