"""``kgen tune``: search for the fastest config and save it."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.arrays import KernelProblem
from kgen.cli.options import AsJson, DeviceSpec, Gpus, config_line, find_targets, print_json
from kgen.cli.problems import for_every_family
from kgen.devices import Device
from kgen.errors import ProblemError

if TYPE_CHECKING:
    from kgen.search import Found

MEASURED_TRIALS, MEASURED_TIMEOUT_S = 200, 600.0
MODELLED_TRIALS, MODELLED_TIMEOUT_S = 30, 90.0
INTERRUPTED = 130

tune_app = typer.Typer(
    help="Search for the fastest config of a block and save it: measured on a GPU, modelled for a named one.",
    invoke_without_command=True,
)

Trials = Annotated[
    int | None,
    typer.Option(help=f"Compiled candidates in a study; {MEASURED_TRIALS}, or {MODELLED_TRIALS} when modelled."),
]
Timeout = Annotated[
    float | None,
    typer.Option(help=f"Seconds a study; {MEASURED_TIMEOUT_S:g}, or {MODELLED_TIMEOUT_S:g} when modelled."),
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
    timeout: Timeout = None,
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
    if replay is not None:
        from kgen.cli.replay import tune_replayed

        limits = {"trials": MEASURED_TRIALS, "timeout_s": MEASURED_TIMEOUT_S} | _given(trials, timeout)
        tune_replayed(replay, **limits, sampler=sampler, seed=seed, as_json=as_json)
        return
    if network is None:
        raise ProblemError(
            "kgen tune needs a family, a network or a recorded space, but got none; see kgen tune --help"
        )
    from kgen.cli.network import tune_network
    from kgen.networks import variant

    target, *others = find_targets(device, gpus)
    limits = _limits(target, trials, timeout)
    kind: dict[str, Any] = {"dtype": dtype, "pixels": pixels, "order": order}
    whole = replace(variant(network), **kind)
    search: dict[str, Any] = {"others": others, "out": out, "storage": storage, "sampler": sampler, "seed": seed}
    if not tune_network(whole, batch, size, target, **limits, **search, as_json=as_json):
        raise typer.Exit(INTERRUPTED)


def _limits(device: Device, trials: int | None, timeout: float | None) -> dict[str, Any]:
    """Limits of a study: those given, or what suits measuring or modelling."""
    measured = device.ordinal is not None
    usual = {
        "trials": MEASURED_TRIALS if measured else MODELLED_TRIALS,
        "timeout_s": MEASURED_TIMEOUT_S if measured else MODELLED_TIMEOUT_S,
    }
    return usual | _given(trials, timeout)


def _given(trials: int | None, timeout: float | None) -> dict[str, Any]:
    limits = {"trials": trials, "timeout_s": timeout}
    return {name: value for name, value in limits.items() if value is not None}


@for_every_family(tune_app)
def _tune(
    problem: KernelProblem,
    trials: Trials = None,
    timeout: Timeout = None,
    device: DeviceSpec = None,
    gpus: Gpus = None,
    out: Out = None,
    storage: Storage = None,
    sampler: Sampler = "kgen",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Search for its fastest config. Ctrl-C keeps the best so far; the same command goes on where it stopped."""
    from kgen.search import SearchInterrupted, find, silent, terminal_progress

    target, *others = find_targets(device, gpus)
    with nullcontext(silent) if as_json else terminal_progress() as progress:
        try:
            found: Found | None = find(
                problem,
                target,
                others=others,
                **_limits(target, trials, timeout),
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
            {"path": str(found.path), "kept": found.kept is not None, "space": found.space, "entry": _saved(found)}
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
    print(config_line(entry.config))
    if entry.tied:
        print(f"{len(entry.tied)} other configs cannot be told apart from it by their times")
    print(f"legal configs searched: {found.space}")
    if found.kept is not None and found.kept.measured is not None:
        print(f"kept the config of an earlier search ({found.kept.measured.median_us:.1f} us) in {found.path}")
    else:
        print(f"saved in {found.path}")


def _saved(found: Found) -> dict[str, Any]:
    """The problem's entry as the file has it."""
    entries: list[dict[str, Any]] = json.loads(found.path.read_bytes())["entries"]
    return next(entry for entry in entries if entry["problem"] == found.entry.problem.to_json())
