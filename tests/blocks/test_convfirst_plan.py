"""The convfirst plan: its rules, its accounting against numbers by hand, and a feasible config for every problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import convfirst_programs
import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.blocks.convfirst.config import PortableConfig
from kgen.compile import compile_cubin
from kgen.devices import find_device
from kgen.env import nvrtc_version
from kgen.errors import InfeasibleError, ProblemError
from kgen.machine import KernelPlan, Program, Stage
from kgen.render import render

H200 = find_device("h200")
PROBLEM = Problem(batch=2, height=8, width=16, channels=64, expansion=2)
TILE = {"tile_h": 8, "tile_w": 8, "pixels": 64, "warps_m": 4, "channel_chunk": 32, "hidden_chunk": 32}
PROJECT = {"project_pixels": 64, "project_warps_m": 4, "project_chunk": 32}
FUSED = replace(convfirst_programs.FUSED, grid="one_shot", **TILE)
SPLIT = replace(convfirst_programs.SPLIT, grid="one_shot", **TILE, **PROJECT)
LAYERS = replace(SPLIT, boundary="layers", hidden_chunk=16)
BROKEN = [
    (FUSED, {"boundary": "both"}, "boundary", "one of fused, split"),
    (FUSED, {"weights": "cached"}, "weights", "one of resident, streamed"),
    (FUSED, {"grid": 4}, "grid", "one of persistent, one_shot"),
    (FUSED, {"conv_reuse": "columns"}, "conv_reuse", "one of rows, none"),
    (FUSED, {"conv_output": "l2"}, "conv_output", "one of registers, shared"),
    (FUSED, {"sigmoid": "erf"}, "sigmoid", "one of exp2, tanh"),
    (FUSED, {"tile_h": 0}, "tile_h", "an integer >= 1"),
    (FUSED, {"tile_w": 2.5}, "tile_w", "an integer >= 1"),
    (FUSED, {"warps_m": True}, "warps_m", "an integer >= 1"),
    (FUSED, {"hidden_chunk": "32"}, "hidden_chunk", "an integer >= 1"),
    (SPLIT, {"project_chunk": -16}, "project_chunk", "an integer >= 1"),
    (FUSED, {"stages": 1}, "stages", "stages must be >= 2"),
    (SPLIT, {"project_stages": 1}, "stages", "project_stages=1"),
    (FUSED, {"pixels": 72}, "pixels", "multiple of 16 * warps_m = 64, but got pixels=72; use 128"),
    (FUSED, {"tile_h": 9}, "tile", "at most pixels=64, but got 9 * 8 = 72"),
    (FUSED, {"tile_h": 2, "tile_w": 24}, "tile_w", "the width 16 rounded up to 8, but got tile_w=24"),
    (FUSED, {"conv_reuse": "rows", "tile_h": 7}, "conv_reuse", "height=8, tile_h=7, tile_w=8, pixels=64"),
    (FUSED, {"channel_chunk": 24}, "channel_chunk", "multiple of 16"),
    (FUSED, {"channel_chunk": 48}, "channel_chunk", "divide channels (64), but got channel_chunk=48"),
    (SPLIT, {"hidden_split": 3}, "hidden_split", "divide hidden / 16 (8), but got hidden_split=3"),
    (FUSED, {"hidden_chunk": 16, "warps_n": 2}, "hidden_chunk", "multiple of 32"),
    (FUSED, {"hidden_chunk": 48}, "hidden_chunk", "divide hidden / hidden_split (128), but got hidden_chunk=48"),
    (FUSED, {"out_split": 3}, "out_split", "divide channels / 16 (4), but got out_split=3; choose from (1, 2, 4)"),
    (FUSED, {"warps_n": 8, "hidden_chunk": 128}, "warps_n", "divide output blocks of one CTA (4), but got warps_n=8"),
    (FUSED, {"project_pixels": 64}, "boundary", "None when fused, but project_pixels is not"),
    (SPLIT, {"project_warps_n": None}, "boundary", "set unless fused, but project_warps_n is None"),
    (FUSED, {"hidden_split": 2}, "hidden_split", "1 when fused, but got hidden_split=2"),
    (FUSED, {"pixels": 1024, "warps_m": 64}, "threads", "at most 1024 threads, but 64 warps make 2048"),
    (FUSED, {"stages": 64}, "shared_memory", "at most 232448 bytes on h200"),
    (FUSED, {"ctas_per_sm": 33}, "ctas_per_sm", "but got ctas_per_sm=33; lower it"),
    (FUSED, {"pixels": 512, "warps_m": 1}, "registers", "at most 255 registers at 32 threads"),
    (LAYERS, {"hidden_chunk": 32}, "hidden_chunk", "16 when boundary='layers', which has no use for it"),
    (LAYERS, {"weights": "resident"}, "weights", "'streamed' when boundary='layers'"),
    (LAYERS, {"conv_output": "registers"}, "conv_output", "'shared' when boundary='layers'"),
    (LAYERS, {"project_chunk": 128}, "project_chunk", "expand (64), but got project_chunk=128"),
    (LAYERS, {"project_pixels": None}, "boundary", "set unless fused, but project_pixels is None"),
    (SPLIT, {"project_pixels": 72}, "project_pixels", "multiple of 16 * project_warps_m = 64"),
    (SPLIT, {"project_chunk": 16, "project_warps_k": 2}, "project_chunk", "multiple of 32"),
    (SPLIT, {"project_chunk": 48}, "project_chunk", "project (128), but got project_chunk=48"),
    (SPLIT, {"project_warps_n": 3}, "project_warps_n", "CTA (4), but got project_warps_n=3"),
    (SPLIT, {"project_pixels": 1024, "project_warps_m": 64}, "project_threads", "64 project_warps make 2048"),
    (SPLIT, {"project_stages": 64}, "project_shared_memory", "at most 232448 bytes"),
    (SPLIT, {"project_pixels": 512, "project_warps_m": 1}, "project_registers", "at most 255 registers"),
]


@pytest.mark.parametrize(("base", "changes", "rule", "words"), BROKEN, ids=lambda value: str(value)[:48])
def test_a_broken_rule_is_named_with_values_and_next_step(
    base: PortableConfig, changes: dict[str, Any], rule: str, words: str
) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(PROBLEM, replace(base, **changes), H200)
    message = str(caught.value)
    assert caught.value.rule == rule
    assert words in message
    assert "; " in message and "\n" not in message


def test_the_unbroken_configs_are_feasible() -> None:
    assert [len(plan(PROBLEM, config, H200).kernels) for config in (FUSED, SPLIT, LAYERS)] == [1, 2, 3]


def test_rows_are_reused_where_strips_tile_the_images() -> None:
    reused = plan(PROBLEM, replace(FUSED, conv_reuse="rows"), H200).kernels[0]
    assert stage(reused, "conv").shared_bytes < stage(plan(PROBLEM, FUSED, H200).kernels[0], "conv").shared_bytes


def test_the_same_config_can_fit_one_device_and_not_another() -> None:
    large = replace(FUSED, weights="resident", stages=8)
    needed = plan(PROBLEM, large, H200).kernels[0].shared_bytes
    with pytest.raises(InfeasibleError, match=f"at most 101376 bytes on rtx3090, but the config needs {needed}"):
        plan(PROBLEM, large, find_device("rtx3090"))


def stage(kernel: KernelPlan, kind: str) -> Stage:
    return next(stage for stage in kernel.stages if stage.kind == kind)


# Two images of 8 x 16 pixels: 256 pixels, which four tiles of 8 x 8 cover exactly. 64 channels, 128 hidden.
PIXELS, TILES = 256, 4
CONV_FLOPS = 2 * PIXELS * 64 * 8 * 9
MATMUL_FLOPS = 2 * PIXELS * 64 * 128
CONV_WEIGHTS, MATMUL_WEIGHTS = 4 * 2560, 2 * 64 * 128  # packed bytes: 4 pairs of groups; one of expand and project
X_BYTES, HALO_BYTES = 2 * PIXELS * 64, 2 * 10 * 10 * 64


def assert_useful_flops_add_up(program: Program) -> None:
    assert sum(kernel.total("flops") for kernel in program.kernels) == PROBLEM.flops == CONV_FLOPS + 2 * MATMUL_FLOPS


def test_fused_accounting_by_hand() -> None:
    program = plan(PROBLEM, FUSED, H200)
    assert_useful_flops_add_up(program)
    (kernel,) = program.kernels
    # Nothing is padded but the conv's sum over taps, from 9 to 10.
    assert stage(kernel, "conv").issued_flops == CONV_FLOPS * 80 // 72
    assert kernel.total("issued_flops") == CONV_FLOPS * 80 // 72 + 2 * MATMUL_FLOPS
    assert stage(kernel, "activate").special == 2 * PIXELS * 128
    assert program.dram_bytes == 2 * X_BYTES + CONV_WEIGHTS + 2 * MATMUL_WEIGHTS
    assert stage(kernel, "load").l2_bytes == TILES * (HALO_BYTES + CONV_WEIGHTS + 2 * MATMUL_WEIGHTS)
    assert stage(kernel, "store").l2_bytes == 2 * X_BYTES
    # A slot holds 32 channels of the halo tile (10 rows, 10 pixels apart, and a zero pixel, 80 bytes each) with two
    # pairs' conv weights, or the weights of 32 hidden channels; then the z tile of 64 pixels, 144 bytes each.
    conv_slot, hidden_slot = (10 * 10 + 1) * 80 + 2 * 2560, 2 * 32 * (64 + 64)
    assert kernel.shared_bytes == 2 * max(conv_slot, hidden_slot) + 64 * 144
    assert (kernel.grid, kernel.work_items, kernel.threads, kernel.steps) == (TILES, TILES, 128, 2 + 4 + 1)
    assert program.workspace_bytes == 0


def test_split_accounting_by_hand() -> None:
    config = replace(SPLIT, hidden_split=2, out_split=2)
    program = plan(PROBLEM, config, H200)
    assert_useful_flops_add_up(program)
    expand, project = program.kernels
    # Both hidden splits convolve every tile.
    assert expand.total("issued_flops") == 2 * CONV_FLOPS * 80 // 72 + MATMUL_FLOPS
    assert project.total("issued_flops") == MATMUL_FLOPS
    hidden_bytes = 2 * PIXELS * 128  # stays in L2
    assert expand.total("dram_bytes") == X_BYTES + CONV_WEIGHTS + MATMUL_WEIGHTS
    assert project.total("dram_bytes") == MATMUL_WEIGHTS + X_BYTES + X_BYTES
    assert stage(expand, "store").l2_bytes == hidden_bytes == program.workspace_bytes
    assert stage(project, "load").l2_bytes == 2 * hidden_bytes + TILES * MATMUL_WEIGHTS
    # Its slots hold weights of 32 hidden channels (expand only); the hidden tile has 80 bytes a pixel.
    assert expand.shared_bytes == 2 * ((10 * 10 + 1) * 80 + 2 * 2560) + 64 * 144 + 64 * 80
    # 64 pixels of 32 hidden channels and the weights to 32 outputs; the output tile has 80 bytes a pixel.
    assert project.shared_bytes == 2 * (64 * 80 + 2 * 32 * 32) + 64 * 80
    assert (expand.grid, expand.steps, project.grid, project.steps) == (2 * TILES, 2 + 2 + 1, 2 * 4, 4)


def test_accounting_of_separate_layers_by_hand() -> None:
    config = replace(LAYERS, hidden_split=2)
    program = plan(PROBLEM, config, H200)
    assert_useful_flops_add_up(program)
    conv, expand, project = program.kernels
    assert [kernel.total("flops") for kernel in program.kernels] == [CONV_FLOPS, MATMUL_FLOPS, MATMUL_FLOPS]
    assert conv.total("issued_flops") == CONV_FLOPS * 80 // 72
    assert [kernel.total("special") for kernel in program.kernels] == [0, 2 * PIXELS * 128, 0]
    z_bytes, hidden_bytes = 2 * PIXELS * 64, 2 * PIXELS * 128
    assert program.workspace_bytes == z_bytes + hidden_bytes
    assert conv.total("dram_bytes") == X_BYTES + CONV_WEIGHTS
    assert expand.total("dram_bytes") == MATMUL_WEIGHTS
    assert project.total("dram_bytes") == MATMUL_WEIGHTS + 2 * X_BYTES
    assert stage(conv, "load").l2_bytes == TILES * (HALO_BYTES + CONV_WEIGHTS)
    assert stage(expand, "load").l2_bytes == 2 * z_bytes + TILES * MATMUL_WEIGHTS
    # Every channel chunk of a tile is a work item; its z tile holds 32 channels, 80 bytes a pixel.
    assert conv.shared_bytes == 2 * ((10 * 10 + 1) * 80 + 2 * 2560) + 64 * 80
    # 64 pixels of 32 channels and the weights to 64 hidden; the output tile has 144 bytes a pixel.
    assert expand.shared_bytes == 2 * (64 * 80 + 2 * 32 * 64) + 64 * 144
    assert (conv.work_items, expand.work_items, project.work_items) == (2 * TILES, 2 * 4, 4)
    assert (conv.steps, expand.steps, project.steps) == (1, 2, 4)


def test_a_hidden_tensor_beyond_half_of_l2_goes_through_dram() -> None:
    program = plan(PROBLEM, SPLIT, replace(H200, l2_bytes=2 * 2 * PIXELS * 128 - 2))
    in_l2 = plan(PROBLEM, SPLIT, H200)
    assert program.dram_bytes - in_l2.dram_bytes == 2 * program.workspace_bytes


def test_resident_weights_are_loaded_once_per_cta() -> None:
    one_sm = replace(H200, sms=1)
    config = replace(FUSED, weights="resident", grid="persistent", conv_output="registers")
    (kernel,) = plan(PROBLEM, config, one_sm).kernels
    assert (kernel.grid, kernel.work_items) == (1, TILES)
    assert stage(kernel, "load").l2_bytes == TILES * (HALO_BYTES + CONV_WEIGHTS) + 2 * MATMUL_WEIGHTS
    streamed = plan(PROBLEM, replace(config, weights="streamed"), one_sm).kernels[0]
    slots = 2 * ((10 * 10 + 1) * 80 + 2 * 2560)
    assert kernel.shared_bytes == slots + 64 * 144 + 2 * MATMUL_WEIGHTS
    assert streamed.total("dram_bytes") == kernel.total("dram_bytes")


def test_edges_cost_issued_work_but_no_useful_work() -> None:
    odd = Problem(batch=1, height=9, width=9, channels=64, expansion=2)
    (kernel,) = plan(odd, FUSED, H200).kernels
    assert kernel.work_items == 4
    assert kernel.total("flops") == odd.flops
    assert stage(kernel, "matmul").issued_flops == 4 * 64 * 2 * 64 * 128


DEVICES = tuple(find_device(name) for name in ("a100", "rtx3090", "l4", "rtx4090", "h200", "b200", "rtx5090"))


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_legal_problem_has_a_feasible_config(device: Any) -> None:
    walked = 0
    for channels in range(16, 1025, 16):
        for expansion in (1, 1.5, 4, 8):
            for size in (1, 7, 56):
                try:
                    problem = Problem(1, size, size, channels, expansion)
                except ProblemError:
                    assert expansion == 1.5 and channels % 32
                    continue
                program = plan(problem, default_config(problem, device), device)
                assert all(kernel.shared_bytes <= device.shared_per_cta_bytes for kernel in program.kernels)
                walked += 1
    assert walked == 3 * (3 * 64 + 32)


@pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
@pytest.mark.parametrize("device", (*DEVICES[:3], *DEVICES[4:]), ids=lambda device: device.arch)
@pytest.mark.parametrize(("channels", "expansion", "size"), [(16, 1, 1), (96, 1.5, 56), (512, 4, 7), (1024, 8, 56)])
def test_default_configs_compile_without_spills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any, channels: int, expansion: float, size: int
) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    problem = Problem(1, size, size, channels, expansion)
    program = plan(problem, default_config(problem, device), device)
    resources = compile_cubin(render(program), program.arch).resources
    assert set(resources) == {kernel.symbol for kernel in program.kernels}
    for kernel in program.kernels:
        found = resources[kernel.symbol]
        assert (found.spill_store_bytes, found.spill_load_bytes) == (0, 0)
        assert found.registers * kernel.threads <= device.registers_per_sm
        assert found.static_shared_bytes == 0
