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
import csv
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from harness import ROOT, environment, find_tool, run_to_end, save, tool_version

from kgen.blocks.convfirst import Weights, fold, pack, plan
from kgen.blocks.convfirst.stages import MMA_FLOPS
from kgen.blocks.layers import STORAGE_DTYPES
from kgen.devices import Device, find_device
from kgen.errors import KgenError
from kgen.machine import KernelPlan, Program, Stage
from kgen.measure import rotation
from kgen.render import render
from kgen.tuned import TunedEntry, load_file

DRAM_BOUND, TENSOR_BOUND = 0.10, 0.02
UNITS = ("mma", "wgmma")
WGMMA_COLUMN_FLOPS = 2 * 64 * 16  # of a warpgroup's wgmma.m64nNk16, for each of its N columns
_SHOWN_LINES = 30


class CountersError(KgenError):
    """A config's kernels could not be counted."""


class NotPermittedError(KgenError):
    """The driver lets nobody but root read counters."""


@dataclass(frozen=True)
class Reading:
    """A quantity as the sum of counters, in units of ``scale``."""

    counters: tuple[str, ...]
    scale: int = 1

    def value(self, counters: Mapping[str, float]) -> float | None:
        """None when one of the counters is missing."""
        found = [counters[name] for name in self.counters if name in counters]
        return sum(found) * self.scale if len(found) == len(self.counters) else None


def operations(kind: str, *destinations: str) -> tuple[Reading, ...]:
    """Operations of the tensor instructions of a kind. Names of ncu differ in whether they tell the destination."""
    sources = ("fp16", "bf16")
    return tuple(
        Reading((f"sm__ops_path_tensor_op_{kind}_src_{source}{destination}_sparsity_off.sum",))
        for source in sources
        for destination in destinations
    )


# By quantity of the plan, how to read it, the better way first: ncu's versions and chips differ in what they know.
READINGS: Mapping[str, tuple[Reading, ...]] = {
    "dram_bytes": (
        Reading(("dram__bytes_read.sum", "dram__bytes_write.sum")),
        Reading(("dram__bytes_op_read.sum", "dram__bytes_op_write.sum")),
        Reading(("dram__sectors_read.sum", "dram__sectors_write.sum"), 32),
    ),
    # The crossbar counts bulk copies, too. L2's own sectors come second: some of Hopper's are counted in both halves.
    "l2_bytes": (
        Reading(("l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum")),
        Reading(("lts__t_sectors_srcunit_tex.sum",), 32),
        Reading(("lts__t_sectors_op_read.sum", "lts__t_sectors_op_write.sum"), 32),
    ),
    # Without what wgmma reads by itself.
    "shared_bytes": (Reading(("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",), 128),),
    "mma_flops": operations("hmma", "_dst_fp32", ""),
    "wgmma_flops": operations("hgmma", "", "_dst_fp32"),
    "mma_instructions": (Reading(("sm__inst_executed_pipe_tensor_op_hmma.sum",)),),
    "wgmma_instructions": (Reading(("sm__inst_executed_pipe_tensor_op_gmma.sum",)),),
}
# Recorded to explain what does not agree.
FURTHER = (
    "sm__ops_path_tensor_src_fp16_dst_fp32.sum",
    "sm__ops_path_tensor_src_bf16_dst_fp32.sum",
    "sm__inst_executed_pipe_tensor.sum",
)
SOURCES = {"float16": "fp16", "bfloat16": "bf16"}


def candidates() -> list[str]:
    """Every counter that could be of use, once."""
    read = (name for readings in READINGS.values() for reading in readings for name in reading.counters)
    return list(dict.fromkeys((*read, *FURTHER)))


def worth_asking(known: Iterable[str], dtype: str) -> list[str]:
    """The counters for problems of a dtype, as few as will do: ncu runs the child again for every handful.

    Of tensor operations it is every way to read them, since a counter that ncu knows may stay zero.
    """
    names, source = set(known), f"_src_{SOURCES[dtype]}_"
    asked = [name for name in FURTHER if name in names]
    for quantity, readings in READINGS.items():
        complete = [reading.counters for reading in readings if names.issuperset(reading.counters)]
        for found in complete if quantity.endswith("flops") else complete[:1]:
            asked += found
    return [name for name in dict.fromkeys(asked) if "_src_" not in name or source in name]


@dataclass(frozen=True)
class Profiler:
    """ncu's executable, how its children are called, and how long one may take."""

    command: str
    tuned: Path
    device: str
    timeout_s: float

    def known(self) -> list[str]:
        """The candidates that ncu knows on this GPU; all of them when it does not tell."""
        _, output = run_to_end([self.command, "--query-metrics"], self.timeout_s)
        names = {line.split()[0] for line in output.splitlines() if line.strip()}
        return [name for name in candidates() if base(name) in names] or candidates()

    def run(self, number: int, counters: Sequence[str]) -> dict[str, dict[str, float]]:
        """The counters of the kernels of one entry of the file.

        Raises:
            CountersError: ncu failed; the message has the end of its output.
            NotPermittedError: it may not read counters.
        """
        output = self._log(number, counters)
        kernels = parse(output)
        refused = named_in_errors(counters, output)
        if not kernels and refused:
            output = self._log(number, [name for name in counters if name not in refused])
            kernels = parse(output)
        if not kernels:
            raise CountersError("\n".join(("ncu counted nothing; its output ends in", *tail(output))))
        return kernels

    def _log(self, number: int, counters: Sequence[str]) -> str:
        """What ncu and the child print."""
        options = ["--csv", "--page", "raw", "--print-units", "base", "--profile-from-start", "off"]
        options += ["--replay-mode", "application", "--cache-control", "none", "--clock-control", "none"]
        options += ["--target-processes", "all", "--kernel-name", "regex:convfirst", "--metrics", ",".join(counters)]
        child = [sys.executable, __file__, "--tuned", self.tuned, "--device", self.device, "--child", number]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "ncu.csv"
            command = [self.command, *options, "--log-file", log, *child]
            _, output = run_to_end([str(part) for part in command], self.timeout_s)
            output += log.read_text(errors="replace") if log.exists() else ""
        if "ERR_NVGPUCTRPERM" in output:
            raise NotPermittedError(
                "reading the GPU's counters must be permitted, but the driver refuses it (ERR_NVGPUCTRPERM); run as "
                "root, or load the driver with NVreg_RestrictProfilingToAdminUsers=0"
            )
        return output


def base(counter: str) -> str:
    """A counter's name without the way it is summed up."""
    return counter.partition(".")[0]


def tail(output: str) -> list[str]:
    return output.splitlines()[-_SHOWN_LINES:]


def named_in_errors(counters: Iterable[str], output: str) -> set[str]:
    """The counters that lines of errors name."""
    lines = [line for line in output.splitlines() if "==ERROR==" in line or "==WARNING==" in line]
    return {counter for counter in counters if any(base(counter) in line for line in lines)}


def parse(output: str) -> dict[str, dict[str, float]]:
    """ncu's CSV among its other output, as the mean of each counter over each kernel's launches."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    starts = [at for at, line in enumerate(lines) if line.startswith('"ID"')]
    if not starts:
        return {}
    values: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(lines[starts[-1] :]):
        kernel = (row.get("Kernel Name") or "").partition("(")[0]
        # A line a launch, with a column for each counter; or, as some versions have it, a line for each counter.
        cells = [(row["Metric Name"], row["Metric Value"])] if "Metric Name" in row else row.items()
        for name, text in cells if kernel else ():
            value = number(text) if name and "__" in name else None
            if value is not None:
                values.setdefault(kernel, {}).setdefault(name, []).append(value)
    return {kernel: {name: fmean(found) for name, found in named.items()} for kernel, named in values.items()}


def number(text: str | None) -> float | None:
    """A cell's number; None for n/a and the like."""
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


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


def measured(counters: Mapping[str, float], quantity: str) -> float | None:
    """A quantity by the first reading that says something; 0 only when none says more."""
    values = [reading.value(counters) for reading in READINGS[quantity]]
    found = [value for value in values if value is not None]
    return next((value for value in found if value), found[0] if found else None)


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
        count = measured(counters, name)
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
    profiler: Profiler, number: int, entry: TunedEntry, device: Device, counters: list[str]
) -> list[dict[str, Any]]:
    """The rows of one entry.

    Raises:
        CountersError: ncu failed, or did not see a kernel.
    """
    program: Program = plan(entry.problem, entry.config, device)  # type: ignore[arg-type]
    found = profiler.run(number, worth_asking(counters, program.problem.to_json()["dtype"]))
    missing = [kernel.symbol for kernel in program.kernels if kernel.symbol not in found]
    if missing:
        raise CountersError(f"ncu must see every kernel, but it saw {', '.join(found)} and not {', '.join(missing)}")
    return [row_of(program, kernel, found[kernel.symbol]) for kernel in program.kernels]


def count(
    profiler: Profiler, wanted: Sequence[tuple[int, TunedEntry]], device: Device, out: Path, time_limit_s: float
) -> int:
    """Count for each entry, and save its rows; returns how many failed or have a row outside the bounds."""
    described = environment(device) | {"ncu": tool_version(profiler.command)}
    start_s, counters = time.perf_counter(), profiler.known()
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
            new = count_entry(profiler, number, entry, device, counters)
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
    profiler = Profiler(command, tuned, options.device, options.timeout)
    wanted = chosen(entries, options.shapes, options.batches)
    try:
        return 1 if count(profiler, wanted, device, out, options.time_limit) else 0
    except NotPermittedError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
