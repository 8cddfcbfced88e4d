"""How tables are printed: plain, and never cut where the output is a file or a pipe."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 200


def console() -> Console:
    """stdout, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def table(*headings: str) -> Table:
    """An empty table; every column but the first is a figure."""
    empty = Table(box=box.SIMPLE, pad_edge=False)
    for index, heading in enumerate(headings):
        empty.add_column(heading, justify="right" if index else "left", overflow="fold")
    return empty
