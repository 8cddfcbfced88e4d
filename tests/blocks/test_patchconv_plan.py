"""The patchconv plan: its rules, its accounting against numbers by hand, and a feasible config for every problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import patchconv_programs
import pytest

from kgen.blocks.patchconv import Problem, default_config, plan
from kgen.compile import compile_cubin
from kgen.devices import find_device, known_devices
from kgen.env import nvrtc_version
from kgen.errors import InfeasibleError
from kgen.machine import KernelPlan, Stage
from kgen.render import render

H200 = find_device("h200")
DEVICES = known_devices()
# 2 x 4 x 8 patches of 256 numbers.
PROBLEM = Problem(batch=2, height=8, width=16, channels=64, outputs=128, activation="silu")
CONFIG = replace(patchconv_programs.PATCHCONV, pixels=32, warps_m=2, warps_n=2, chunk=64, stages=3, out_split=2)
BROKEN = [
    *(
        ({name: value}, name, f"{name} must be an integer >= 1, but got {name}={value!r}; pass a positive integer")
        for name, value in {
            "pixels": 0,
            "warps_m": True,
            "warps_n": 1.0,
            "warps_k": -1,
            "chunk": "64",
            "stages": None,
            "out_split": 0,
            "ctas_per_sm": 1.5,
        }.items()
    ),
    ({"sigmoid": "erf"}, "sigmoid", "sigmoid must be one of exp2, tanh, but got sigmoid='erf'; choose one of them"),
    (
        {"stages": 1},
        "stages",
        "stages must be >= 2, one slot read while another fills, but got stages=1; use 2, 3 or 4",
    ),
    (
        {"out_split": 3},
        "out_split",
        "out_split must divide outputs / 16 (8), but got out_split=3; choose from (1, 2, 4, 8)",
    ),
    ({"pixels": 40}, "pixels", "pixels must be a multiple of 16 * warps_m = 32, but got pixels=40; use 64"),
    ({"chunk": 24}, "chunk", "chunk must be a multiple of 16, but got chunk=24; use 16"),
    ({"chunk": 16, "warps_k": 2}, "chunk", "chunk must be a multiple of 32, but got chunk=16; use 32"),
    (
        {"chunk": 48},
        "chunk",
        "chunk must divide the input channels of patchconv (256), but got chunk=48; choose from (16, 32, 64, 128, 256)",
    ),
    (
        {"warps_n": 3},
        "warps_n",
        "warps_n must divide the output blocks of one patchconv CTA (4), but got warps_n=3; choose from (1, 2, 4)",
    ),
    (
        {"pixels": 1024, "warps_m": 64, "warps_n": 1},
        "threads",
        "a CTA must have at most 1024 threads, but 64 warps make 2048; use fewer warps",
    ),
    (
        {"stages": 64},
        "shared_memory",
        f"a CTA's shared memory must be at most 232448 bytes on h200, but the config needs {64 * 12800 + 4608}; use",
    ),
    ({"pixels": 256, "warps_m": 1, "warps_n": 1}, "registers", "a thread has at most 255 registers at 32 threads x 1"),
    (
        {"ctas_per_sm": 6},
        "ctas_per_sm",
        "ctas_per_sm must be at most 5, what 43008 bytes of shared memory and 128 threads a CTA allow on h200, but got "
        "ctas_per_sm=6; lower it",
    ),
]


@pytest.mark.parametrize(("changes", "rule", "sentence"), BROKEN, ids=lambda value: str(value)[:48])
def test_a_broken_rule_is_named_with_values_and_next_step(changes: dict[str, Any], rule: str, sentence: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(PROBLEM, replace(CONFIG, **changes), H200)
    message = str(caught.value)
    assert caught.value.rule == rule
    assert message.startswith(sentence)
    assert "; " in message and "\n" not in message


def stage(kernel: KernelPlan, kind: str) -> Stage:
    return next(stage for stage in kernel.stages if stage.kind == kind)


def test_accounting_by_hand() -> None:
    program = plan(PROBLEM, CONFIG, H200)
    (kernel,) = program.kernels
    # A slot holds 64 of 32 patches' inputs, 144 bytes a patch, and the weights to 64 outputs; the output tile has 144
    # bytes a patch, too.
    assert kernel.shared_bytes == 3 * (32 * 144 + 2 * 64 * 64) + 32 * 144 == 43008
    assert (kernel.threads, kernel.work_items, kernel.grid, kernel.steps) == (128, 4, 4, 4)
    assert (program.tiles, program.ragged, program.workspace_bytes) == (2, False, 0)
    assert kernel.total("flops") == PROBLEM.flops == 2 * 64 * 256 * 128
    matmul, load, store = (stage(kernel, kind) for kind in ("matmul", "load", "store"))
    assert matmul.issued_flops == matmul.flops, "nothing is padded"
    input_bytes, weight_bytes = 2 * 32 * 256, 2 * 256 * 64  # of a work item
    assert load.l2_bytes == load.shared_bytes == 4 * (input_bytes + weight_bytes)
    assert load.dram_bytes == 2 * 64 * 256 + 2 * 256 * 128
    assert matmul.shared_bytes == 4 * (2 * input_bytes + 2 * weight_bytes), "two warps across and two down read each"
    assert stage(kernel, "activate").special == 2 * 64 * 128
    assert store.dram_bytes == store.l2_bytes == 2 * 64 * 128
    assert program.dram_bytes == PROBLEM.min_dram_bytes - 4 * 128, "but for the bias"
    # Two fragments of 16 x 16 outputs a warp, and operands on their way.
    assert kernel.accumulators == 8 * 1 * 2 + 4 * 1 + 4


def test_groups_of_warps_keep_partial_sums() -> None:
    (one,), (three,) = (plan(PROBLEM, replace(CONFIG, warps_k=k, chunk=64), H200).kernels for k in (1, 4))
    assert three.shared_bytes - one.shared_bytes == 3 * 32 * 64 * 4
    assert three.threads == 4 * one.threads


def test_the_residual_comes_from_l2() -> None:
    problem = Problem(2, 4, 8, 64, 64, 1, residual=True)
    (kernel,) = plan(problem, replace(CONFIG, out_split=1), H200).kernels
    assert stage(kernel, "store").l2_bytes == 2 * stage(kernel, "store").dram_bytes == 4 * 64 * 64
    assert stage(kernel, "load").dram_bytes == 2 * 64 * 64 + 2 * 64 * 64


def test_bytes_and_what_fills_up_inputs_and_tiles() -> None:
    problem = Problem(2, 5, 5, 3, 16, pixels="uint8", order="nchw")
    program = plan(problem, patchconv_programs.PATCHCONV, H200)
    (kernel,) = program.kernels
    assert program.ragged and program.tiles == kernel.work_items == 1
    assert stage(kernel, "load").dram_bytes == 8 * 12 + 2 * 16 * 16
    assert stage(kernel, "matmul").flops == 2 * 8 * 12 * 16
    assert stage(kernel, "matmul").issued_flops == 2 * 16 * 16 * 16


def test_a_grid_has_no_more_ctas_than_fit() -> None:
    few = replace(H200, sms=1)
    for wanted, ctas in ((1, 1), (2, 2), (4, 4)):
        (kernel,) = plan(replace(PROBLEM, batch=64), replace(CONFIG, ctas_per_sm=wanted), few).kernels
        assert (kernel.grid, kernel.ctas_per_sm) == (ctas, ctas)
        assert kernel.work_items == 2 * 64


def test_constants_name_the_input() -> None:
    image = plan(Problem(1, 8, 8, 3, 16, 4, pixels="uint8", order="nchw"), patchconv_programs.PATCHCONV, H200)
    layer = plan(PROBLEM, CONFIG, H200)
    assert image.fields["pixel"] == "unsigned char" and image.constants["IMAGE"] and image.constants["PLANES"]
    assert layer.fields["pixel"] == layer.fields["storage"] == "f16"
    assert not layer.constants["IMAGE"] and not layer.constants["PLANES"]
    assert (image.constants["INPUTS"], layer.constants["INPUTS"]) == (48, 256)


def test_the_same_config_can_fit_one_device_and_not_another() -> None:
    large = replace(CONFIG, stages=8)
    needed = plan(PROBLEM, large, H200).kernels[0].shared_bytes
    with pytest.raises(InfeasibleError, match=f"at most 101376 bytes on rtx3090, but the config needs {needed}"):
        plan(PROBLEM, large, find_device("rtx3090"))


def test_the_known_devices_have_every_arch() -> None:
    assert {device.arch for device in DEVICES} >= {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_legal_problem_has_a_feasible_config(device: Any) -> None:
    channels = (1, 2, 3, 4, 16, 48, 112, 768, 1040, 4096)
    outputs = (16, 32, 80, 96, 176, 768, 992, 4016, 4096)
    for inputs, made, patch in ((c, o, p) for c in channels for o in outputs for p in (1, 2, 4)):
        problem = Problem(1, 7, 9, inputs, made, patch, residual=patch == 1 and made == inputs)
        (kernel,) = plan(problem, default_config(problem, device), device).kernels
        assert kernel.shared_bytes <= device.shared_per_cta_bytes


@pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize(
    "problem",
    [
        Problem(8, 224, 224, 3, 96, 4, pixels="uint8", order="nchw"),
        Problem(8, 56, 56, 96, 192, 2, activation="gelu", dtype="bfloat16"),
        Problem(8, 14, 14, 512, 512, 1, activation="silu", residual=True),
    ],
    ids=["image", "2x2", "linear"],
)
def test_default_configs_compile_without_spills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Problem, arch: str
) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    device = next(device for device in DEVICES if device.arch == arch)
    program = plan(problem, default_config(problem, device), device)
    found = compile_cubin(render(program), program.arch).resources["patchconv"]
    assert (found.spill_store_bytes, found.spill_load_bytes, found.static_shared_bytes) == (0, 0, 0)
    assert found.registers * program.kernels[0].threads <= device.registers_per_sm
