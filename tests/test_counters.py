"""What counters tell, and benchmarks/counters.py without a GPU: what may differ by how much from the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import counters
import pytest
from harness import ROOT, save
from ncu_script import fake_ncu

from kgen.blocks.convfirst import plan
from kgen.counters import READINGS, counted, counters_of, worth_asking
from kgen.devices import find_device
from kgen.machine import Program
from kgen.ncu import Launch
from kgen.tuned import TunedEntry, load_file

H200 = find_device("h200")
ENTRIES = load_file(ROOT / "tuned_configs" / "convfirst" / "nvidia-h200.json").entries
DRAM = ("dram__bytes_read.sum", "dram__bytes_write.sum")
L2 = ("l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum")
MMA = "sm__ops_path_tensor_op_hmma_src_fp16_dst_fp32_sparsity_off.sum"
WGMMA = "sm__ops_path_tensor_op_hgmma_src_fp16_sparsity_off.sum"
GMMA_INSTRUCTIONS = "sm__inst_executed_pipe_tensor_op_gmma.sum"


def entry_of(channels: int, batch: int) -> TunedEntry:
    return next(entry for entry in ENTRIES if (entry.problem.channels, entry.problem.batch) == (channels, batch))


def program_of(channels: int, batch: int) -> Program:
    entry = entry_of(channels, batch)
    program: Program = plan(entry.problem, entry.config, H200)  # type: ignore[arg-type]
    return program


def agreeing(program: Program, factors: Mapping[str, float] | None = None, at: int = 0) -> dict[str, float]:
    """Counters that agree with a kernel's plan, but for factors by quantity."""
    account = counters.planned(program, program.kernels[at])
    value = {name: account[name] * (factors or {}).get(name, 1.0) for name in account}
    found = {GMMA_INSTRUCTIONS: value["wgmma_instructions"], MMA: value["mma_flops"], WGMMA: value["wgmma_flops"]}
    for names, quantity in ((DRAM, "dram_bytes"), (L2, "l2_bytes")):
        found |= {names[0]: value[quantity] * 0.75, names[1]: value[quantity] * 0.25}
    return found


def test_a_reading_needs_all_of_its_counters() -> None:
    assert counted({DRAM[0]: 3.0, DRAM[1]: 4.0}, "dram_bytes") == 7.0
    assert counted({DRAM[0]: 3.0}, "dram_bytes") is None
    assert counted({DRAM[0]: 3.0, "dram__sectors_read.sum": 1.0, "dram__sectors_write.sum": 2.0}, "dram_bytes") == 96


def test_a_counter_that_stays_zero_gives_way_to_the_next() -> None:
    other = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32_sparsity_off.sum"
    assert counted({WGMMA: 0.0, other: 5.0}, "wgmma_flops") == 5.0
    assert counted({WGMMA: 0.0}, "wgmma_flops") == 0.0


def test_a_kernels_counters_are_the_mean_of_its_launches() -> None:
    launches = [Launch("conv", {DRAM[0]: 1.0, DRAM[1]: 5.0}), Launch("project", {}), Launch("conv", {DRAM[0]: 3.0})]
    assert counters.by_kernel(launches) == {"conv": {DRAM[0]: 2.0, DRAM[1]: 5.0}, "project": {}}


def test_instructions_by_hand() -> None:
    """256 images of 56 x 56 pixels, 64 channels: tiles of 192 pixels; chunks of 64 hidden channels of 256."""
    program = program_of(64, 256)
    account = counters.planned(program, program.kernels[0])
    warps = -(-256 * 56 * 56 // 192) * 12  # of 16 pixels
    assert account["mma_instructions"] == warps * (64 // 8) * 5
    # A warp's share of 4 chunks, each 4 steps of k16 to expand and 4 to project.
    assert account["wgmma_instructions"] == warps * 4 * (4 + 4)


def test_wide_outputs_of_three_warpgroups_take_two_instructions() -> None:
    program = program_of(512, 256)
    expand = program.kernels[1]
    assert program.constants["EXPAND_OUTPUTS"] == 256
    # Items of 192 pixels x 256 outputs: 512 / 16 steps, two instructions each, for 12 warps.
    assert counters.planned(program, expand)["wgmma_instructions"] == expand.work_items * 32 * 2 * 12


def test_counters_that_agree_are_within_the_bounds() -> None:
    program = program_of(64, 256)
    row = counters.row_of(program, program.kernels[0], agreeing(program))
    assert row["ratio"]["dram_bytes"] == row["ratio"]["l2_bytes"] == row["ratio"]["mma_flops"] == 1.0
    assert row["ratio"]["shared_bytes"] is None  # not counted
    assert (row["compared"], row["reason"], row["outside"]) == (True, None, [])
    json.dumps(row)


@pytest.mark.parametrize(
    ("factors", "outside"),
    [
        ({"dram_bytes": 1.09, "mma_flops": 1.019, "wgmma_flops": 0.981, "l2_bytes": 2.0}, []),
        ({"dram_bytes": 1.11}, ["dram_bytes"]),
        ({"dram_bytes": 0.89}, ["dram_bytes"]),
        ({"mma_flops": 0.97}, ["mma_flops"]),
        ({"mma_flops": 1.03, "wgmma_flops": 1.03}, ["mma_flops", "wgmma_flops"]),
        ({"wgmma_flops": 0.0}, []),  # its instructions tell
        ({"wgmma_flops": 0.0, "wgmma_instructions": 1.05}, ["wgmma_flops"]),
    ],
)
def test_bounds(factors: Mapping[str, float], outside: list[str]) -> None:
    program = program_of(64, 256)
    assert counters.row_of(program, program.kernels[0], agreeing(program, factors))["outside"] == outside


def test_what_was_not_counted_is_outside() -> None:
    program = program_of(64, 256)
    assert counters.row_of(program, program.kernels[0], {})["outside"] == ["dram_bytes", "mma_flops", "wgmma_flops"]


def test_dram_bytes_of_little_traffic_are_not_compared() -> None:
    program = program_of(64, 1)
    row = counters.row_of(program, program.kernels[0], agreeing(program, {"dram_bytes": 3.0}))
    assert not row["compared"] and "less than half of L2" in row["reason"]
    assert row["ratio"]["dram_bytes"] == 3.0 and row["outside"] == []


def test_dram_bytes_between_kernels_are_compared_where_l2_is_too_small_to_matter() -> None:
    program = program_of(384, 256)
    row = counters.row_of(program, program.kernels[1], agreeing(program, {"dram_bytes": 0.7}, at=1))
    assert not row["compared"] and "between the block's kernels" in row["reason"] and row["outside"] == []
    small = replace(program, device=replace(H200, l2_bytes=1 << 20))
    assert counters.incomparable(small, 193e6) is None


def test_entries_are_chosen_by_shape_and_batch() -> None:
    numbers = [number for number, _ in counters.chosen(ENTRIES, None, None)]
    assert numbers == list(range(len(ENTRIES)))
    chosen = counters.chosen(ENTRIES, "64x56,768x7", "1,256")
    assert {(entry.problem.channels, entry.problem.batch) for _, entry in chosen} == {
        (64, 1),
        (64, 256),
        (768, 1),
        (768, 256),
    }
    assert all(ENTRIES[number] is entry for number, entry in chosen)


def test_the_summary_names_the_worst_and_what_is_outside() -> None:
    program, small = program_of(64, 256), program_of(64, 1)
    rows = [
        counters.row_of(program, program.kernels[0], agreeing(program, {"mma_flops": 0.9})),
        counters.row_of(small, small.kernels[0], agreeing(small, {"dram_bytes": 9.0})),
    ]
    told = counters.summary(rows)
    assert "dram_bytes: 1.000 at worst of 1, convfirst_wgmma_fused at 64 channels, size 56, batch 256" in told
    assert "outside its bound: mma_flops of convfirst_wgmma_fused at 64 channels, size 56, batch 256, ratio 0.9" in told
    assert "1 of 2 kernels have comparable DRAM bytes" in told


def test_one_way_to_read_bytes_and_all_for_the_dtypes_operations_are_asked_for() -> None:
    asked = counters.wanted_counters(counters.candidates(), "float16")
    assert {*DRAM, *L2, MMA, WGMMA, GMMA_INSTRUCTIONS} < set(asked)
    assert not [name for name in asked if "bf16" in name or name.startswith(("lts__", "dram__sectors"))]
    fallback = counters.wanted_counters([DRAM[0], "dram__sectors_read.sum", "dram__sectors_write.sum"], "float16")
    assert fallback == ["dram__sectors_read.sum", "dram__sectors_write.sum"]
    assert WGMMA.replace("fp16", "bf16") in counters.wanted_counters(counters.candidates(), "bfloat16")
    assert worth_asking(["dram_bytes"], counters_of(READINGS)) == list(DRAM)


def test_without_ncu_or_gpu_there_is_advice() -> None:
    command = [sys.executable, counters.__file__, "--device", "h200", "--ncu", "no-such-ncu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "install Nsight Compute or pass --ncu" in done.stderr


def test_rows_are_saved_as_they_come_and_those_of_another_environment_go(tmp_path: Path) -> None:
    program, out = program_of(512, 1), tmp_path / "results" / "counters.json"
    rows = [counters.row_of(program, kernel, {}) for kernel in program.kernels]
    for described in ({"ncu": "1"}, {"ncu": "2"}):
        for _ in range(2):
            save(out, described, rows, ("problem",), counters.order)
        content = json.loads(out.read_text())
        assert content["environment"] == described
        assert [row["kernel"] for row in content["rows"]] == [kernel.symbol for kernel in program.kernels]


def test_a_config_that_fails_costs_only_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counters, "environment", lambda device: {"gpu": device.title})
    program, out = program_of(512, 256), tmp_path / "counters.json"
    names = [MMA, WGMMA, *DRAM, *L2]
    lines = [["ID", "Kernel Name", *names]]
    for at, kernel in enumerate(program.kernels):
        found = agreeing(program, at=at)
        lines.append([str(at), kernel.symbol, *(f"{found[name]:.0f}" for name in names)])
    text = "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines)
    ncu = fake_ncu(tmp_path, f"log.write_text({text!r} if a[-1] == '1' else 'no GPU today')")
    counting = counters.Counting(ncu, tmp_path / "tuned.json", "cuda:0")
    failed, good = entry_of(64, 256), entry_of(512, 256)
    assert counters.count(counting, [(0, failed), (1, good)], H200, out, 60.0) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [(row["kernel"], row["outside"]) for row in rows] == [(kernel.symbol, []) for kernel in program.kernels]
    assert "no GPU today" in capsys.readouterr().out
    assert counters.count(counting, [(1, good)], H200, out, -1.0) == 0
    assert "time is up: 1 configs were not run" in capsys.readouterr().out
