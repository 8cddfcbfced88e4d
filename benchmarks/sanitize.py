"""Runs the tuned ConvFirst kernels under compute-sanitizer, and records what memcheck and racecheck find as JSON.

Each tuned config runs once in a child process, on exactly sized buffers, with the batch cut to 8 images and persistent
grids to 16 SMs' worth of CTAs: small enough to be quick, with several tiles a CTA. The output is checked, too.

    python benchmarks/sanitize.py --tool memcheck,racecheck --limit 4
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, environment, save

from kgen.blocks.convfirst import plan
from kgen.cases import make_case
from kgen.devices import Device, find_device
from kgen.errors import KgenError
from kgen.machine import Program
from kgen.nvidia_tools import find_tool, run_to_end, tool_version
from kgen.render import render
from kgen.tuned import TunedEntry, load_file

TOOLS = ("memcheck", "racecheck")
MAX_BATCH = 8
MAX_SMS = 16
NAN = 0xFFFF  # in float16 and in bfloat16
SUMMARIES = {
    "memcheck": re.compile(r"ERROR SUMMARY: (\d+) errors?()"),
    "racecheck": re.compile(r"RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)"),
}
_SHOWN_LINES = 40


@dataclass(frozen=True)
class Sanitizer:
    """The tool's executable, how its children are called, and how long one may take."""

    command: str
    tuned: Path
    device: str
    timeout_s: float

    def run(self, tool: str, number: int) -> tuple[int | None, str]:
        """What one tool finds in one entry: the number of errors, None where there is no telling, and the output."""
        child = [sys.executable, __file__, "--tuned", self.tuned, "--device", self.device, "--child", str(number)]
        options = ["--tool", tool, "--kernel-regex", "kns=convfirst", "--report-api-errors", "no"]
        code, output = run_to_end([self.command, *options, *map(str, child)], self.timeout_s)
        if code is None:
            return None, output
        found = SUMMARIES[tool].findall(output)
        errors = sum(int(count) for counts in found for count in counts if count)
        if not found or (code and not errors):
            return None, f"{output}\nexit code {code}"
        return errors, output


def small_program(entry: TunedEntry, device: Device) -> Program:
    """The entry's program with a smaller batch, and a grid as on a GPU of few SMs."""
    problem: Any = entry.problem
    smaller = replace(problem, batch=min(problem.batch, MAX_BATCH))
    return plan(smaller, entry.config, replace(device, sms=min(device.sms, MAX_SMS)))  # type: ignore[arg-type]


def run_entry(entry: TunedEntry, device: Device) -> None:
    """Launch the kernels once, in this process, and check their output.

    Raises:
        VerificationError: it is wrong.
    """
    import cupy

    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram

    program = small_program(entry, device)
    case = make_case(program.problem)  # type: ignore[arg-type]
    with cupy.cuda.Device(device.ordinal):
        cupy.cuda.set_allocator(None)  # without a pool, a byte beyond an array is out of bounds
        x = cupy.asarray(case.images[case.index].view(np.uint16))
        weights, y = cupy.asarray(case.packed), cupy.asarray(np.full(x.shape, NAN, np.uint16))
        hidden = cupy.asarray(np.full(program.workspace_bytes // 2, NAN, np.uint16))
        pointers = [int(array.data.ptr) for array in (x, weights, hidden, y)]
        loaded = LoadedProgram(program, compile_cubin(render(program), program.arch))
        loaded.launch(pointers[0], pointers[1], pointers[2], pointers[3], case.problem.batch, 0)
        cupy.cuda.runtime.deviceSynchronize()
        output = y.get().view(case.images.dtype).astype(np.float64)
    difference = (output - case.reference[case.index]).reshape(len(output), -1)
    case.judge(case.errors(np.square(difference).sum(axis=1), abs(difference).max(axis=1), case.index))


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["tool"], row["problem"]["channels"], -row["problem"]["batch"], str(row["problem"])


def sanitize(
    sanitizer: Sanitizer, tools: Sequence[str], entries: Sequence[TunedEntry], device: Device, out: Path, jobs: int
) -> int:
    """Run every tool on every entry; returns how many runs found something or failed."""
    described = environment(device) | {"sanitizer": tool_version(sanitizer.command)}
    bad = 0
    with ThreadPoolExecutor(jobs) as pool:
        running = {
            pool.submit(partial(sanitizer.run, tool, number)): (tool, entry)
            for tool in tools
            for number, entry in enumerate(entries)
        }
        for done in as_completed(running):
            tool, entry = running[done]
            errors, output = done.result()
            program = small_program(entry, device)
            row = {
                "problem": entry.problem.to_json(),
                "batch_run": min(entry.problem.batch, MAX_BATCH),
                "tool": tool,
                "errors": errors,
                "kernels": [kernel.symbol for kernel in program.kernels],
            }
            save(out, described, [row], ("problem", "tool"), order)
            print(f"{tool} of {entry.problem}: {'failed' if errors is None else f'{errors} errors'}", flush=True)
            if errors != 0:
                bad += 1
                print("\n".join(output.splitlines()[-_SHOWN_LINES:]), flush=True)
    return bad


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--tool", default=",".join(TOOLS), help=f"one or more of {', '.join(TOOLS)}, comma-separated")
    parser.add_argument("--limit", type=int, help="only the first entries of the file")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tuned", type=Path, help="default: tuned_configs/convfirst/<gpu>.json")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/sanitizer-<gpu>.json")
    parser.add_argument("--sanitizer", default="compute-sanitizer", help="the executable, if not on the PATH")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one tool on one entry")
    parser.add_argument("--jobs", type=int, default=4, help="children that share the GPU")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.tools = options.tool.split(",")
    if not set(options.tools) <= set(TOOLS):
        parser.error(f"--tool must be of {', '.join(TOOLS)}, but got {options.tool}")
    return options


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
    command = find_tool(options.sanitizer)
    if command is None or device.ordinal is None:
        print(
            "compute-sanitizer and a local GPU are needed; install the CUDA toolkit or pass --sanitizer",
            file=sys.stderr,
        )
        return 2
    out = options.out or ROOT / "benchmarks" / "results" / f"sanitizer-{device.slug}.json"
    sanitizer = Sanitizer(command, tuned, options.device, options.timeout)
    return 1 if sanitize(sanitizer, options.tools, entries[: options.limit], device, out, options.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
