"""``kgen tune``: search for the fastest config and save it."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.arrays import KernelProblem
from kgen.cli.options import AsJson, DeviceSpec, config_line, print_json
from kgen.cli.problems import for_every_family
from kgen.devices import find_device

if TYPE_CHECKING:
    from kgen.search import Found

MEASURED_TRIALS, MEASURED_TIMEOUT_S = 200, 600.0
MODELLED_TRIALS, MODELLED_TIMEOUT_S = 30, 90.0
INTERRUPTED = 130

tune_app = typer.Typer(
    help="Search for the fastest config of a block and save it: measured on a GPU, modelled for a named one."
)


@for_every_family(tune_app)
def _tune(
    problem: KernelProblem,
    trials: Annotated[
        int | None,
        typer.Option(help=f"Compiled candidates in the study; {MEASURED_TRIALS}, or {MODELLED_TRIALS} when modelled."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help=f"Seconds; {MEASURED_TIMEOUT_S:g}, or {MODELLED_TIMEOUT_S:g} when modelled."),
    ] = None,
    device: DeviceSpec = None,
    out: Annotated[Path | None, typer.Option(help="Folder of tuned configs to save in; the user's by default.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Journal file or database URL of the study; in the user's cache by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Search for its fastest config. Ctrl-C keeps the best so far; the same command goes on where it stopped."""
    from kgen.search import SearchInterrupted, find, silent, terminal_progress

    target = find_device(device)
    measures = target.ordinal is not None
    with nullcontext(silent) if as_json else terminal_progress() as progress:
        try:
            found: Found | None = find(
                problem,
                target,
                trials=trials if trials is not None else MEASURED_TRIALS if measures else MODELLED_TRIALS,
                timeout_s=timeout if timeout is not None else MEASURED_TIMEOUT_S if measures else MODELLED_TIMEOUT_S,
                out=out,
                storage=storage,
                seed=seed,
                progress=progress,
            )
            interrupted = False
        except SearchInterrupted as error:
            found, interrupted = error.found, True
    if found is None:
        print("kgen: interrupted before a config passed, so nothing was saved", file=sys.stderr)
    else:
        _print_found(found, as_json)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _print_found(found: Found, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(found.path), "kept": found.kept is not None, "entry": _saved(found)})
        return
    entry = found.entry
    time = (
        f"{entry.measured.median_us:.1f} us measured, efficiency {entry.measured.efficiency:.1%}"
        if entry.measured
        else f"{entry.modelled_us:.1f} us modelled (not measured), verified in the emulator"
    )
    print(f"{entry.problem}: {time}, of {entry.attainable_efficiency:.1%} attainable; {entry.trials} trials")
    if entry.error is not None:
        print(f"relative error {entry.error:.2g} against float64")
    print(config_line(entry.config))
    if found.kept is not None and found.kept.measured is not None:
        print(f"kept the faster config of an earlier search ({found.kept.measured.median_us:.1f} us) in {found.path}")
    else:
        print(f"saved in {found.path}")


def _saved(found: Found) -> dict[str, Any]:
    """The problem's entry as the file has it."""
    entries: list[dict[str, Any]] = json.loads(found.path.read_bytes())["entries"]
    return next(entry for entry in entries if entry["problem"] == found.entry.problem.to_json())
