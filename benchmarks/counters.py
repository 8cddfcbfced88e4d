"""Compares the plans of the tuned ConvFirst kernels with the GPU's counters, by Nsight Compute; records both as JSON.

Each tuned config runs under ncu in a child process, on sets of x, weights and y that together exceed the L2 cache
twice: all of them once to warm up, then all of them again, profiled. A kernel's counters are the mean of its launches.
So inputs come from DRAM, and the dirty lines of y that a launch leaves in L2 stand against those that it found there:
the writes are those of a long run, as the times in the tuned configs are. ncu must neither flush caches nor replay
kernels for this; where it needs several passes, it runs the child again.

A ratio is the counter over the plan. Tensor operations must agree within 2%, DRAM bytes within 10% where they can be
compared; L2 and shared-memory bytes are recorded. The DRAM bytes of a kernel are not compared, and its row says why:

- where it moves less than half of L2, all of which may be written back while other kernels run, the profiler's too;
- where the block has several kernels and what L2 may keep of the tensors between them, at most its size, exceeds 10%
  of the kernel's bytes: the plan counts these tensors as all in DRAM or all in L2.

    python benchmarks/counters.py --batches 256 --time-limit 480
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from harness import ROOT, environment, save

from kgen.blocks.convfirst import Weights, fold, pack, plan
from kgen.blocks.convfirst.stages import MMA_FLOPS
from kgen.blocks.layers import STORAGE_DTYPES
from kgen.counters import READINGS, counted, counters_of, worth_asking
from kgen.devices import Device, find_device
from kgen.errors import KgenError
from kgen.machine import KernelPlan, Program, Stage
from kgen.measure import rotation
from kgen.ncu import CountersError, Launch, NotPermittedError, Profiler
from kgen.nvidia_tools import find_tool, tool_version
from kgen.render import render
from kgen.tuned import TunedEntry, load_file

DRAM_BOUND, TENSOR_BOUND = 0.10, 0.02
UNITS = ("mma", "wgmma")
WGMMA_COLUMN_FLOPS = 2 * 64 * 16  # of a warpgroup's wgmma.m64nNk16, for each of its N columns
# Recorded to explain what does not agree.
FURTHER = (
    "sm__ops_path_tensor_src_fp16_dst_fp32.sum",
    "sm__ops_path_tensor_src_bf16_dst_fp32.sum",
    "sm__inst_executed_pipe_tensor.sum",
)
SOURCES = {"float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Counting:
    """A profiler, and how its children find their entries."""

    profiler: Profiler
    tuned: Path
    device: str

    def run(self, number: int, counters: Sequence[str]) -> tuple[Launch, ...]:
        """The launches of one entry of the file."""
        child = [sys.executable, __file__, "--tuned", self.tuned, "--device", self.device, "--child", number]
        return self.profiler.run([str(part) for part in child], counters)


def candidates() -> list[str]:
    """Every counter that could be of use, once."""
    return [*counters_of(READINGS), *FURTHER]


def wanted_counters(known: Sequence[str], dtype: str) -> list[str]:
    """The counters for problems of a dtype."""
    asked = [*(name for name in FURTHER if name in known), *worth_asking(READINGS, known)]
    return [name for name in asked if "_src_" not in name or f"_src_{SOURCES[dtype]}_" in name]


def by_kernel(launches: Iterable[Launch]) -> dict[str, dict[str, float]]:
    """The mean of each counter over each kernel's launches."""
    values: dict[str, dict[str, list[float]]] = {}
    for launch in launches:
        named = values.setdefault(launch.kernel, {})
        for name, value in launch.counters.items():
            named.setdefault(name, []).append(value)
    return {kernel: {name: fmean(found) for name, found in named.items()} for kernel, named in values.items()}


def planned(program: Program, kernel: KernelPlan) -> dict[str, float]:
    """The plan's account of a kernel, by quantity."""
    account: dict[str, float] = {name: kernel.total(name) for name in ("dram_bytes", "l2_bytes", "shared_bytes")}
    for unit in UNITS:
        stages = [stage for stage in kernel.stages if stage.unit == unit]
        account[f"{unit}_flops"] = sum(stage.issued_flops for stage in stages)
        account[f"{unit}_instructions"] = sum(instructions(program, stage) for stage in stages)
    return account


def instructions(program: Program, stage: Stage) -> float:
    """Instructions of a stage as ncu counts them, by warp: a wgmma is four."""
    if not stage.issued_flops or stage.unit == "mma":
        return stage.issued_flops / MMA_FLOPS
    return 4 * stage.issued_flops / (WGMMA_COLUMN_FLOPS * columns(program, stage))


def columns(program: Program, stage: Stage) -> int:
    """N of a stage's wgmma.m64nNk16."""
    constants, name = program.constants, stage.name.upper()
    if f"{name}_OUTPUTS" not in constants:  # fused
        return constants["HIDDEN_CHUNK" if stage.name == "expand" else "CHANNELS"]
    outputs = constants[f"{name}_OUTPUTS"]
    return outputs // 2 if outputs > 192 and constants[f"{name}_WARPGROUPS"] == 3 else outputs


def incomparable(program: Program, dram_bytes: float) -> str | None:
    """Why a kernel's DRAM bytes cannot be compared; None when they can. The module's docstring gives the rule."""
    l2_bytes = program.device.l2_bytes
    if dram_bytes < l2_bytes / 2:
        return f"the {dram_bytes:.0f} bytes it moves are less than half of L2, which may write them back later"
    kept = min(l2_bytes, program.workspace_bytes)
    if kept > DRAM_BOUND * dram_bytes:
        return f"L2 may keep {min(kept, dram_bytes):.0f} of its {dram_bytes:.0f} bytes between the block's kernels"
    return None


def outside(ratio: Mapping[str, float | None], account: Mapping[str, float], *, dram: bool) -> list[str]:
    """What exceeds its bound, or could not be read."""
    found = [] if not dram or within(ratio["dram_bytes"], DRAM_BOUND) else ["dram_bytes"]
    for unit in UNITS:
        # Operations are counted apart by kind of instruction; of instructions that is not documented.
        told = ratio[f"{unit}_flops"] or ratio[f"{unit}_instructions"]
        if account[f"{unit}_flops"] and not within(told, TENSOR_BOUND):
            found.append(f"{unit}_flops")
    return found


def within(ratio: float | None, bound: float) -> bool:
    return ratio is not None and abs(ratio - 1) <= bound


def row_of(program: Program, kernel: KernelPlan, counters: Mapping[str, float]) -> dict[str, Any]:
    account = planned(program, kernel)
    ratio: dict[str, float | None] = {}
    for name, value in account.items():
        count = counted(counters, name)
        ratio[name] = None if count is None or not value else round(count / value, 4)
    reason = incomparable(program, account["dram_bytes"])
    return {
        "problem": program.problem.to_json(),
        "kernel": kernel.symbol,
        "boundary": program.config.boundary,
        "plan": account,
        "counters": {name: counters[name] for name in candidates() if name in counters},
        "ratio": ratio,
        "compared": reason is None,
        "reason": reason,
        "outside": outside(ratio, account, dram=reason is None),
    }


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Kernels of a problem stay in launch order, since sorting is stable."""
    problem = row["problem"]
    return problem["channels"], -problem["batch"], str(problem)


def run_entry(entry: TunedEntry, device: Device) -> None:
    """Launch the block on every set of buffers, in this process, and once more under the profiler."""
    import cupy

    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram

    program: Program = plan(entry.problem, entry.config, device)  # type: ignore[arg-type]
    problem: Any = program.problem
    packed = pack(problem, fold(problem, Weights.random(problem)))
    image = np.random.default_rng(0).standard_normal(problem.x.shape[1:], dtype=np.float32)
    images = np.repeat(image.astype(STORAGE_DTYPES[problem.dtype]).view(np.uint16)[None], problem.batch, axis=0)
    with cupy.cuda.Device(device.ordinal):
        loaded = LoadedProgram(program, compile_cubin(render(program), program.arch))
        hidden = cupy.empty(program.workspace_bytes, np.uint8)
        copies = rotation(2 * images.nbytes + packed.nbytes, device.l2_bytes)
        sets = [
            (cupy.asarray(images), cupy.asarray(packed), cupy.empty(images.shape, np.uint16)) for _ in range(copies)
        ]

        def launch_all() -> None:
            for x, weights, y in sets:
                pointers = [int(array.data.ptr) for array in (x, weights, hidden, y)]
                loaded.launch(pointers[0], pointers[1], pointers[2], pointers[3], problem.batch, 0)
            cupy.cuda.runtime.deviceSynchronize()

        launch_all()
        cupy.cuda.runtime.profilerStart()
        launch_all()
        cupy.cuda.runtime.profilerStop()


def count_entry(
    counting: Counting, number: int, entry: TunedEntry, device: Device, counters: list[str]
) -> list[dict[str, Any]]:
    """The rows of one entry.

    Raises:
        CountersError: ncu failed, or did not see a kernel.
    """
    program: Program = plan(entry.problem, entry.config, device)  # type: ignore[arg-type]
    found = by_kernel(counting.run(number, wanted_counters(counters, program.problem.to_json()["dtype"])))
    missing = [kernel.symbol for kernel in program.kernels if kernel.symbol not in found]
    if missing:
        raise CountersError(f"ncu must see every kernel, but it saw {', '.join(found)} and not {', '.join(missing)}")
    return [row_of(program, kernel, found[kernel.symbol]) for kernel in program.kernels]


def count(
    counting: Counting, wanted: Sequence[tuple[int, TunedEntry]], device: Device, out: Path, time_limit_s: float
) -> int:
    """Count for each entry, and save its rows; returns how many failed or have a row outside the bounds."""
    described = environment(device) | {"ncu": tool_version(counting.profiler.command)}
    start_s, counters = time.perf_counter(), counting.profiler.known(candidates())
    unknown = [name for name in candidates() if name not in counters]
    print(f"counters that ncu does not know: {', '.join(unknown) or 'none'}", flush=True)
    rows: list[dict[str, Any]] = []
    failed = 0
    for done, (number, entry) in enumerate(wanted):
        began_s = time.perf_counter()
        if began_s - start_s > time_limit_s:
            print(f"time is up: {len(wanted) - done} configs were not run")
            break
        try:
            new = count_entry(counting, number, entry, device, counters)
        except CountersError as error:
            failed += 1
            print(f"{entry.problem}: {error}", flush=True)
            continue
        rows += new
        save(out, described, new, ("problem",), order)
        print(f"{entry.problem}: {time.perf_counter() - began_s:.0f} s", flush=True)
    print(summary(rows))
    return failed + sum(bool(row["outside"]) for row in rows)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The worst ratio of each quantity, and the rows outside the bounds."""
    lines = []
    for quantity in READINGS:
        shown = [row for row in rows if row["ratio"][quantity] is not None]
        if quantity == "dram_bytes":
            shown = [row for row in shown if row["compared"]]
        if shown:
            worst = max(shown, key=lambda row: abs(row["ratio"][quantity] - 1))
            lines.append(f"{quantity:>18}: {worst['ratio'][quantity]:.3f} at worst of {len(shown)}, {name_of(worst)}")
    for row in rows:
        for quantity in row["outside"]:
            lines.append(f"outside its bound: {quantity} of {name_of(row)}, ratio {row['ratio'][quantity]}")
    lines.append(f"{sum(row['compared'] for row in rows)} of {len(rows)} kernels have comparable DRAM bytes")
    return "\n".join(lines)


def name_of(row: dict[str, Any]) -> str:
    problem = row["problem"]
    return f"{row['kernel']} at {problem['channels']} channels, size {problem['height']}, batch {problem['batch']}"


def chosen(entries: Sequence[TunedEntry], shapes: str | None, batches: str | None) -> list[tuple[int, TunedEntry]]:
    """The entries of these shapes and batches, with their numbers in the file; None is all."""
    return [
        (number, entry)
        for number, entry in enumerate(entries)
        if (shapes is None or f"{entry.problem.channels}x{entry.problem.height}" in shapes.split(","))
        and (batches is None or str(entry.problem.batch) in batches.split(","))
    ]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--shapes", help="CHANNELSxSIZE, comma-separated; default: all")
    parser.add_argument("--batches", help="comma-separated; default: all")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tuned", type=Path, help="default: tuned_configs/convfirst/<gpu>.json")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/counters-<gpu>.json")
    parser.add_argument("--ncu", default="ncu", help="the executable, if not on the PATH")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one config")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds; no new config starts after them")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    try:
        device = find_device(options.device)
        tuned = options.tuned or ROOT / "tuned_configs" / "convfirst" / f"{device.slug}.json"
        entries = load_file(tuned).entries
        if options.child is not None:
            run_entry(entries[options.child], device)
            return 0
    except KgenError as error:
        print(error, file=sys.stderr)
        return 2
    command = find_tool(options.ncu)
    if command is None or device.ordinal is None:
        print("ncu and a local GPU are needed; install Nsight Compute or pass --ncu", file=sys.stderr)
        return 2
    out = options.out or ROOT / "benchmarks" / "results" / f"counters-{device.slug}.json"
    counting = Counting(Profiler(command, options.timeout), tuned, options.device)
    wanted = chosen(entries, options.shapes, options.batches)
    try:
        return 1 if count(counting, wanted, device, out, options.time_limit) else 0
    except NotPermittedError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
