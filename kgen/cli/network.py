"""``kgen tune --network``: every problem of a network once, and then where its time goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from kgen.budget import Budget
from kgen.cli.options import print_json
from kgen.cli.tables import console, table
from kgen.devices import Device
from kgen.networks.account import Account, Row, account
from kgen.networks.spec import Network
from kgen.tuned import is_tuned

if TYPE_CHECKING:
    from kgen.search.objectives import Objectives


def tune_network(
    network: Network,
    batch: int,
    size: int,
    device: Device,
    budget: Budget | None,
    usual_s: float,
    *,
    others: Sequence[Device] = (),
    trials: int,
    until: float | None = None,
    objectives: Objectives,
    out: Path | None,
    storage: str | None,
    sampler: str,
    seed: int,
    as_json: bool,
) -> bool:
    """Tune what has no fresh config yet, and print the account; False after Ctrl-C, which keeps what was found.

    Problems share the ``budget`` of the command, of which each has an equal part of what those before it left;
    without one they have ``usual_s`` seconds each.

    Raises:
        what :func:`kgen.search.find` raises.
    """
    from kgen.search import SearchInterrupted, find, one_of, open_bench, silent, terminal_progress
    from kgen.search.objectives import shown

    problems = list(dict.fromkeys(layer.problem for layer in network.layers(batch, size, size)))
    missing = [problem for problem in problems if not is_tuned(problem, device, out, shown(objectives))]
    if len(missing) < len(problems):
        print(f"kgen: {len(problems) - len(missing)} of {len(problems)} problems are tuned already", file=sys.stderr)
    try:
        with (
            nullcontext(silent) if as_json else terminal_progress() as progress,
            open_bench(device, others, objectives) if missing else nullcontext() as bench,
        ):
            for i, problem in enumerate(missing):
                find(
                    problem,
                    device,
                    others=others,
                    trials=trials,
                    budget=Budget(usual_s) if budget is None else budget.share(len(missing) - i),
                    until=until,
                    objectives=objectives,
                    out=out,
                    storage=storage,
                    sampler=sampler,
                    seed=seed,
                    progress=one_of(len(missing), i, progress),
                    bench=bench,
                )
    except SearchInterrupted:
        return False
    found = account(network, batch, size, device, out)
    if as_json:
        print_json(_document(found))
    else:
        console().print(_table(found))
    return True


def _table(found: Account) -> Table:
    rows = table("layers", "times", "us each", "us", "share", "efficiency", "attainable", "how", "problem")
    for row in found.rows:
        rows.add_row(*_cells(row, found.total_us))
    rows.add_section()
    whole = found.total_us
    efficiency = "" if whole is None else f"{found.ideal_us / whole:.1%}"
    rows.add_row("all", str(sum(row.count for row in found.rows)), "", _number(whole), "", efficiency, "", "", "")
    return rows


def _cells(row: Row, whole_us: float | None) -> list[str]:
    share = "" if row.total_us is None or whole_us is None else f"{row.total_us / whole_us:.1%}"
    attainable = "" if row.attainable_us is None else f"{row.ideal_us / row.attainable_us:.1%}"
    efficiency = "" if row.efficiency is None else f"{row.efficiency:.1%}"
    how = "" if row.us is None else "measured" if row.measured else "modelled"
    figures = [str(row.count), _number(row.us), _number(row.total_us), share, efficiency, attainable]
    return [row.first, *figures, how, str(row.problem)]


def _number(us: float | None) -> str:
    return "not tuned" if us is None else f"{us:.1f}"


def _document(found: Account) -> dict[str, object]:
    rows = [asdict(row) | {"problem": row.problem.to_json(), "family": row.problem.family} for row in found.rows]
    return {"rows": rows, "total_us": found.total_us, "ideal_us": found.ideal_us}
