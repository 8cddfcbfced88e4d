"""The classifier plan: its rules, its accounting against numbers by hand, and a feasible config for every problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from classifier_programs import CLASSIFIER

from kgen.blocks.classifier import Problem, default_config, plan
from kgen.compile import compile_cubin
from kgen.devices import find_device, known_devices
from kgen.env import nvrtc_version
from kgen.errors import InfeasibleError
from kgen.machine import KernelPlan, Stage
from kgen.render import render

H200 = find_device("h200")
DEVICES = known_devices()
# 37 classes are filled up to 48.
PROBLEM = Problem(batch=5, height=3, width=3, channels=64, classes=37)
CONFIG = replace(CLASSIFIER, images=2, slice=32, warps_k=2, parts=3, stages=3)
BROKEN = [
    *(
        ({name: value}, name, f"{name} must be an integer >= 1, but got {name}={value!r}; pass a positive integer")
        for name, value in {
            "images": 0,
            "slice": True,
            "chunk": 16.0,
            "warps_n": -1,
            "warps_k": "2",
            "parts": None,
            "stages": 2.5,
        }.items()
    ),
    ({"images": 17}, "images", "images must be at most 16, the rows of a multiplication, but got images=17; use 16"),
    (
        {"stages": 1},
        "stages",
        "stages must be >= 2, one slot read while another fills, but got stages=1; use 2, 3 or 4",
    ),
    ({"chunk": 8}, "chunk", "chunk must be a multiple of 16, but got chunk=8; use 16"),
    ({"chunk": 16, "warps_n": 2}, "chunk", "chunk must be a multiple of 32, but got chunk=16; use 32"),
    ({"slice": 40}, "slice", "slice must be a multiple of 16, but got slice=40; use 16"),
    ({"slice": 48, "chunk": 32}, "chunk", "chunk must divide slice (48), but got chunk=32; choose from (16, 48)"),
    (
        {"warps_k": 3},
        "warps_k",
        "warps_k must divide channels / 16 (4), but got warps_k=3; choose from (1, 2, 4)",
    ),
    (
        {"slice": 64},
        "slice",
        "slice must be at most 48 classes, in whole chunks of 16, but got slice=64; use less",
    ),
    (
        {"slice": 96, "chunk": 48},
        "slice",
        "slice must be at most 48 classes, in whole chunks of 48, but got slice=96; use less",
    ),
    (
        {"stages": 200},
        "shared_memory",
        f"a CTA's shared memory must be at most 232448 bytes on h200, but the config needs {200 * 2048 + 1968}; use",
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


WIDE = Problem(batch=5, height=3, width=3, channels=576, classes=5000)


@pytest.mark.parametrize(
    ("changes", "rule", "sentence"),
    [
        ({"warps_k": 36}, "threads", "a CTA must have at most 1024 threads, but 36 warps make 1152; use fewer warps"),
        ({"chunk": 512, "slice": 512}, "shared_memory", "a CTA's shared memory must be at most 232448 bytes on h200"),
    ],
)
def test_a_cta_takes_no_more_than_there_is(changes: dict[str, Any], rule: str, sentence: str) -> None:
    with pytest.raises(InfeasibleError, match=sentence) as caught:
        plan(WIDE, replace(CLASSIFIER, **changes), H200)
    assert caught.value.rule == rule


def test_accumulators_are_limited() -> None:
    narrow = Problem(batch=5, height=1, width=1, channels=16, classes=5000)
    config = replace(CLASSIFIER, slice=512, chunk=512)
    with pytest.raises(InfeasibleError, match="a thread has at most 255 registers at 32 threads x 1 CTAs") as caught:
        plan(narrow, config, H200)
    assert caught.value.rule == "registers"
    assert plan(narrow, replace(config, warps_n=4), H200).kernels[0].accumulators == 8 * 8 + 8


def stage(kernel: KernelPlan, name: str) -> Stage:
    return next(stage for stage in kernel.stages if stage.name == name)


def test_accounting_by_hand() -> None:
    program = plan(PROBLEM, CONFIG, H200)
    (kernel,) = program.kernels
    # A slot holds 16 classes; 3 rows of means, one of them zeros, take 144 bytes each; then parts of the sums.
    assert kernel.shared_bytes == 3 * 16 * 128 + 3 * 144 + 3 * 2 * 64 * 4 == 8112
    # Three tiles of two images, two slices of 32 classes, each of two steps behind the sums.
    assert (kernel.threads, kernel.work_items, kernel.grid, kernel.steps) == (64, 6, 6, 3)
    assert (program.tiles, program.ragged, program.workspace_bytes) == (3, True, 0)
    assert kernel.total("flops") == PROBLEM.flops
    pool, load, matmul, store = kernel.stages
    assert (pool.kind, load.kind, matmul.kind, store.kind) == ("load", "load", "matmul", "store")
    assert (pool.flops, matmul.flops) == (5 * 9 * 64, 2 * 5 * 64 * 37)
    assert matmul.issued_flops == 3 * 2 * 16 * 64 * 64, "16 rows and 64 classes for each tile"
    assert pool.dram_bytes == 2 * 5 * 9 * 64
    assert pool.l2_bytes == 6 * 2 * 9 * 64 * 2, "each slice sums its images"
    assert pool.shared_bytes == 2 * 6 * 3 * 2 * 64 * 4, "parts are written and read"
    assert load.dram_bytes == 2 * 64 * 37 + 4 * 37
    assert load.l2_bytes == load.shared_bytes == 6 * 32 * 64 * 2
    assert matmul.shared_bytes == 6 * 32 * 64 * 2 + 6 * 2 * 16 * 64 * 2, "weights once, means for each step"
    assert store.dram_bytes == store.l2_bytes == 2 * 5 * 37
    assert program.dram_bytes == PROBLEM.min_dram_bytes


@pytest.mark.parametrize(("parts", "behind"), [(3, 3 * 1024), (7, 7 * 2 * 64 * 4)])
def test_partial_logits_lie_where_parts_of_sums_lay(parts: int, behind: int) -> None:
    (kernel,) = plan(PROBLEM, replace(CONFIG, warps_k=4, parts=parts), H200).kernels
    assert kernel.shared_bytes == 3 * 16 * 128 + 3 * 144 + behind


def test_whole_tiles_are_not_ragged() -> None:
    program = plan(replace(PROBLEM, batch=6), CONFIG, H200)
    assert (program.tiles, program.ragged, program.kernels[0].grid) == (3, False, 6)


def test_the_same_config_can_fit_one_device_and_not_another() -> None:
    large = replace(CONFIG, stages=60)
    needed = plan(PROBLEM, large, H200).kernels[0].shared_bytes
    with pytest.raises(InfeasibleError, match=f"at most 101376 bytes on rtx3090, but the config needs {needed}"):
        plan(PROBLEM, large, find_device("rtx3090"))


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_legal_problem_has_a_feasible_config(device: Any) -> None:
    infeasible = []
    for channels in range(16, 1025, 16):
        for classes in (1, 10, 16, 1000, 65536):
            problem = Problem(1, 7, 7, channels, classes)
            try:
                plan(problem, default_config(problem, device), device)
            except InfeasibleError as error:
                infeasible.append(f"{problem}: {error}")
    assert not infeasible, "\n".join(infeasible)


@pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize(("channels", "dtype"), [(16, "float16"), (768, "bfloat16")])
def test_default_configs_compile_without_spills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, dtype: Any, arch: str
) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    device, problem = next(device for device in DEVICES if device.arch == arch), Problem(8, 7, 7, channels, 1000, dtype)
    program = plan(problem, default_config(problem, device), device)
    found = compile_cubin(render(program), program.arch).resources["classifier"]
    assert (found.spill_store_bytes, found.spill_load_bytes, found.static_shared_bytes) == (0, 0, 0)
    assert found.registers * program.kernels[0].threads <= device.registers_per_sm
