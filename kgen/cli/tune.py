"""``kgen tune``: search for the best config and save it."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.arrays import KernelProblem
from kgen.budget import Budget, parse_seconds
from kgen.cli.options import AsJson, DeviceSpec, Gpus, config_line, find_targets, print_json
from kgen.cli.problems import for_every_family
from kgen.cli.tables import console, pareto_table
from kgen.devices import Device
from kgen.errors import ProblemError

if TYPE_CHECKING:
    from kgen.search import Found

MEASURED_TRIALS, MEASURED_S = 200, 600.0
MODELLED_TRIALS, MODELLED_S = 30, 90.0
INTERRUPTED = 130

tune_app = typer.Typer(
    help="Search for the best config of a block and save it: measured on a GPU, modelled for a named one.",
    invoke_without_command=True,
)

Trials = Annotated[
    int | None,
    typer.Option(help=f"Compiled candidates in a study; {MEASURED_TRIALS}, or {MODELLED_TRIALS} when modelled."),
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help=f"Time for the whole command, as 60s, 5m or 1h; {MEASURED_S:g}s a problem, or {MODELLED_S:g}s modelled.",
    ),
]
Until = Annotated[
    str | None, typer.Option(help="Stop when no config left is expected to save as much of the best's time, as 1%.")
]
ObjectiveText = Annotated[
    str,
    typer.Option(
        "--objective",
        help="efficiency, latency (which is the same), energy or error; several, as latency,energy, give a Pareto set.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder of tuned configs to save in; the user's by default.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Journal file of the study (default: in the user's cache), or URL of a database, which machines can share."
    ),
]
Sampler = Annotated[str, typer.Option(help="What proposes configs: kgen, tpe, random, gp or cmaes.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampler.")]


@tune_app.callback()
def _tune_all(
    context: typer.Context,
    network: Annotated[
        str | None, typer.Option(help="Tune every problem of a network, such as convfirst_tiny, once.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Search a space that kgen record measured, without a GPU; nothing is saved.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    pixels: Annotated[str, typer.Option(help="Of the images: storage (--dtype's), or uint8.")] = "storage",
    order: Annotated[str, typer.Option(help="Of the images: nhwc or nchw.")] = "nhwc",
    trials: Trials = None,
    budget: BudgetText = None,
    until: Until = None,
    objective: ObjectiveText = "efficiency",
    device: DeviceSpec = None,
    gpus: Gpus = None,
    out: Out = None,
    storage: Storage = None,
    sampler: Sampler = "kgen",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    start_s = time.monotonic()
    if replay is not None:
        from kgen.cli.replay import tune_replayed

        if objective not in ("efficiency", "latency"):
            raise ProblemError(f"a recorded space is searched for efficiency only, but got {objective!r}; drop it")
        limits: dict[str, Any] = {
            "trials": MEASURED_TRIALS if trials is None else trials,
            "budget_s": _seconds(budget, MEASURED_S),
            "until": _share(until),
        }
        tune_replayed(replay, **limits, sampler=sampler, seed=seed, as_json=as_json)
        return
    if network is None:
        raise ProblemError(
            "kgen tune needs a family, a network or a recorded space, but got none; see kgen tune --help"
        )
    from kgen.cli.network import tune_network
    from kgen.networks import variant

    target, *others = find_targets(device, gpus)
    kind: dict[str, Any] = {"dtype": dtype, "pixels": pixels, "order": order}
    whole = replace(variant(network), **kind)
    search = _search(target, trials, until, objective) | {
        "others": others,
        "out": out,
        "storage": storage,
        "sampler": sampler,
        "seed": seed,
    }
    given = None if budget is None else Budget(parse_seconds(budget), start_s)
    if not tune_network(whole, batch, size, target, given, _usual_s(target), **search, as_json=as_json):
        raise typer.Exit(INTERRUPTED)


def _search(device: Device, trials: int | None, until: str | None, objective: str) -> dict[str, Any]:
    """What to search for and how far: as given, or as many trials as suit measuring or modelling."""
    from kgen.search.objectives import parse_objectives

    usual = MODELLED_TRIALS if device.ordinal is None else MEASURED_TRIALS
    return {
        "trials": usual if trials is None else trials,
        "until": _share(until),
        "objectives": parse_objectives(objective),
    }


def _usual_s(device: Device) -> float:
    return MODELLED_S if device.ordinal is None else MEASURED_S


def _seconds(budget: str | None, usual_s: float) -> float:
    return usual_s if budget is None else parse_seconds(budget)


def _share(until: str | None) -> float | None:
    """The share that ``--until`` names in percent."""
    if until is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)%", until)
    if found is None or not 0 < float(found[1]) < 100:
        raise ProblemError(f"--until must be a percentage between 0% and 100%, but got {until!r}; pass 1%")
    return float(found[1]) / 100


@for_every_family(tune_app)
def _tune(
    problem: KernelProblem,
    trials: Trials = None,
    budget: BudgetText = None,
    until: Until = None,
    objective: ObjectiveText = "efficiency",
    device: DeviceSpec = None,
    gpus: Gpus = None,
    out: Out = None,
    storage: Storage = None,
    sampler: Sampler = "kgen",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Search for its best config. Ctrl-C keeps the best so far; the same command goes on where it stopped."""
    start_s = time.monotonic()
    from kgen.search import SearchInterrupted, find, silent, terminal_progress

    target, *others = find_targets(device, gpus)
    with nullcontext(silent) if as_json else terminal_progress() as progress:
        try:
            found: Found | None = find(
                problem,
                target,
                others=others,
                budget=Budget(_seconds(budget, _usual_s(target)), start_s),
                **_search(target, trials, until, objective),
                out=out,
                storage=storage,
                sampler=sampler,
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
        print_json(
            {
                "path": str(found.path),
                "kept": found.kept is not None,
                "space": found.space,
                "ended": found.ended,
                "entry": _saved(found),
            }
        )
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
    if entry.measured is not None and entry.measured.energy_j is not None:
        print(f"energy {1e3 * entry.measured.energy_j:.4g} mJ a launch")
    print(config_line(entry.config))
    if entry.tied:
        print(f"{len(entry.tied)} other configs cannot be told apart from it by their times")
    if entry.pareto is not None:
        print(f"Pareto set by {entry.objective}, {len(entry.pareto)} configs:")
        console().print(pareto_table(entry.pareto))
    print(f"the search ended: {found.ended}")
    print(f"legal configs searched: {found.space}")
    if found.kept is not None and found.kept.measured is not None:
        print(f"kept the config of an earlier search ({found.kept.measured.median_us:.1f} us) in {found.path}")
    else:
        print(f"saved in {found.path}")


def _saved(found: Found) -> dict[str, Any]:
    """The problem's entry as the file has it."""
    entries: list[dict[str, Any]] = json.loads(found.path.read_bytes())["entries"]
    return next(entry for entry in entries if entry["problem"] == found.entry.problem.to_json())
