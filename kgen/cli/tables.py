"""How tables are printed: plain, and never cut where the output is a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from kgen.tuned_file import ParetoPoint

_PIPE_WIDTH = 200


def console() -> Console:
    """stdout, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def pareto_table(points: Sequence[ParetoPoint]) -> Table:
    """A Pareto set: each config's figures, and in what it differs from the first one."""
    measured = any(point.energy_j is not None for point in points)
    rows = table("us", *(["mJ"] if measured else []), "error", "config")
    rows.columns[-1].justify = "left"
    first = points[0].config.to_json()
    for point in points:
        values = point.config.to_json()
        told = values if point is points[0] else {name: one for name, one in values.items() if one != first.get(name)}
        energy = [f"{1e3 * point.energy_j:.4g}"] if point.energy_j is not None else [""] if measured else []
        config = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
        rows.add_row(f"{point.latency_us:.4g}", *energy, f"{point.error:.4g}", config)
    return rows


def table(*headings: str) -> Table:
    """An empty table; every column but the first is a figure."""
    empty = Table(box=box.SIMPLE, pad_edge=False)
    for index, heading in enumerate(headings):
        empty.add_column(heading, justify="right" if index else "left", overflow="fold")
    return empty
