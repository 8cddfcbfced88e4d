"""Measures what other activations cost beside SiLU, in the config that was tuned for SiLU, and records it as JSON.

python benchmarks/activations.py --batch 256
"""

from __future__ import annotations

import argparse
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import ROOT, environment, save

from kgen.blocks.activations import SIGMOIDS
from kgen.blocks.convfirst import Problem, choices, plan
from kgen.cases import make_case
from kgen.compile import CompilePool, Cubin
from kgen.devices import Device, find_device
from kgen.launch import LoadedProgram
from kgen.machine import Program
from kgen.measure import measure
from kgen.render import render
from kgen.tuned import TunedEntry, load_file

OUT = ROOT / "benchmarks" / "results" / "activations-nvidia-h200.json"
Jobs = dict[str, tuple[Program, Future[Cubin]]]


def started(entry: TunedEntry, device: Device, pool: CompilePool) -> Jobs:
    """The entry's program with each activation, being compiled."""
    jobs: Jobs = {}
    for activation in SIGMOIDS:
        problem: Any = replace(entry.problem, activation=activation)  # type: ignore[type-var]
        config: Any = entry.config
        sigmoids = choices(problem, device)[config.boundary]["sigmoid"]
        config = config if config.sigmoid in sigmoids else replace(config, sigmoid=sigmoids[0])
        program = plan(problem, config, device)
        jobs[activation] = program, pool.submit(render(program), program.arch)
    return jobs


def row_of(entry: TunedEntry, jobs: Jobs) -> dict[str, Any]:
    """Median microseconds of each activation, and over SiLU's; outputs are checked before and after."""
    times_us = {}
    for activation, (program, cubin) in jobs.items():
        timing, _ = measure(make_case(program.problem), LoadedProgram(program, cubin.result()))  # type: ignore[arg-type]
        times_us[activation] = round(timing.median_us, 3)
    over_silu = {activation: round(time_us / times_us["silu"], 3) for activation, time_us in times_us.items()}
    return {
        "problem": entry.problem.to_json(),
        "boundary": entry.config.boundary,
        "us": times_us,
        "over_silu": over_silu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    device = find_device("cuda:0")
    entries = load_file(ROOT / "tuned_configs" / Problem.family / f"{device.slug}.json").entries
    with CompilePool() as pool:
        chosen = [entry for entry in entries if entry.problem.to_json()["batch"] == options.batch]
        for entry, jobs in [(entry, started(entry, device, pool)) for entry in chosen]:
            row = row_of(entry, jobs)
            save(options.out, environment(device), [row], ("problem",), lambda row: row["problem"]["channels"])
            print(f"{entry.problem}: {row['over_silu']}", flush=True)


if __name__ == "__main__":
    main()
