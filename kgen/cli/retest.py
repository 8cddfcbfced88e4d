"""``kgen retest``: verify and time tuned configs again after a change of driver, NVRTC, kgen or templates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.options import AsJson, DeviceSpec, print_json
from kgen.cli.tables import console, table
from kgen.devices import find_device
from kgen.env import user_tuned_dir

if TYPE_CHECKING:
    from kgen.retest import Retested
    from kgen.tuned_file import TunedEntry

FAILED = 1


def retest(
    family: Annotated[str | None, typer.Argument(help="Family of blocks; all of them by default.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="Folder of tuned configs; the user's by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those too that were measured as everything is now.")] = False,
    device: DeviceSpec = None,
    as_json: AsJson = False,
) -> None:
    """Verify and time tuned configs again, on a GPU, where its driver, NVRTC, kgen or the templates changed.

    Those that pass get their new time, and give way to a config that tied with them if that one wins now; those that
    fail stay in the file but are not used. Exit code 1 when one fails.
    """
    from kgen.retest import due
    from kgen.retest import retest as run

    target = find_device(device)
    done: list[Retested] = []
    for path, entries in due(tuned or user_tuned_dir(), family, target, every=every).items():
        for one in run(path, entries, target) if entries else ():
            done.append(one)
            print(f"kgen: {one.before.problem}: {_result(one)}, {one.seconds:.1f} s", file=sys.stderr)
    if as_json:
        print_json([_json(one) for one in done])
    else:
        _print(done)
    if any(one.after.failed for one in done):
        raise typer.Exit(FAILED)


def _print(done: list[Retested]) -> None:
    if not done:
        print("every entry was measured with this driver, NVRTC, kgen and templates; --all retests them anyhow")
        return
    rows = table("problem", "changed", "us before", "us after", "result", "seconds")
    for one in done:
        result = "failed" if one.after.failed else "replaced" if _replaced(one) else "updated"
        after = "" if one.after.failed else _us(one.after)
        rows.add_row(
            str(one.before.problem), ", ".join(one.changed), _us(one.before), after, result, f"{one.seconds:.1f}"
        )
    console().print(rows)


def _result(one: Retested) -> str:
    by = ", by a config that tied" if _replaced(one) else ""
    return one.after.failed or f"{_us(one.before) or 'not measured'} -> {_us(one.after)} us{by}"


def _replaced(one: Retested) -> bool:
    return one.after.config != one.before.config


def _us(entry: TunedEntry) -> str:
    return f"{entry.measured.median_us:.1f}" if entry.measured else ""


def _json(one: Retested) -> dict[str, Any]:
    before, after = one.before.measured, one.after.measured
    return {
        "family": one.before.problem.family,
        "problem": one.before.problem.to_json(),
        "changed": list(one.changed),
        "before_us": before.median_us if before else None,
        "after_us": after.median_us if after and not one.after.failed else None,
        "failed": one.after.failed,
        "replaced": _replaced(one),
        "seconds": round(one.seconds, 3),
    }
