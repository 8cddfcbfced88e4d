"""``kgen record``: measure a search space, or a sample of it, into a file that ``kgen tune --replay`` searches."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kgen.arrays import KernelProblem
from kgen.cli.options import AsJson, DeviceSpec, parse_batches, print_json
from kgen.cli.problems import for_every_family
from kgen.devices import Device, find_device

INTERRUPTED = 130

record_app = typer.Typer(help="Measure a search space, or a sample of it, into a file to search in without a GPU.")


@for_every_family(record_app)
def _record(
    problem: KernelProblem,
    batches: Annotated[
        str | None,
        typer.Option(help="Batch sizes, comma-separated, in the place of --batch: a file each, compiled once."),
    ] = None,
    sample: Annotated[int | None, typer.Option(help="Configs a file, at random; all listed ones by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("recorded"),
    device: DeviceSpec = None,
    as_json: AsJson = False,
) -> None:
    """Record its search space. Ctrl-C loses nothing that was measured; the same command goes on where it stopped."""
    from kgen.search import one_of, record, silent, terminal_progress

    target = find_device(device)
    problems = [problem]
    if batches is not None:
        problems = [_with_batch(problem, batch) for batch in parse_batches("--batches", batches)]
    files: list[dict[str, Any]] = []
    with nullcontext(silent) if as_json else terminal_progress() as progress:
        for part, one in enumerate(problems):
            path = out / file_name(one, target)
            try:
                count = record(
                    one, target, path, sample=sample, seed=seed, progress=one_of(len(problems), part, progress)
                )
            except KeyboardInterrupt:
                print(f"kgen: interrupted; {path} has what was measured, run it again to go on", file=sys.stderr)
                raise typer.Exit(INTERRUPTED) from None
            files.append({"path": str(path), "problem": one.to_json(), "configs": count})
    if as_json:
        print_json(files)
        return
    for file in files:
        print(f"{file['configs']} configs in {file['path']}")


def file_name(problem: KernelProblem, device: Device) -> str:
    """``convfirst-batch-32-28x28-128-channels-expansion-4-silu-float16-nvidia-h200.jsonl.gz``."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{problem} {device.slug}".lower()).strip("-") + ".jsonl.gz"


def _with_batch(problem: Any, batch: int) -> KernelProblem:
    other: KernelProblem = replace(problem, batch=batch)
    return other
