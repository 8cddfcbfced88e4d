"""``kgen compare``: two files of tuned configs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kgen.cli.options import AsJson, print_json
from kgen.cli.tables import console, table
from kgen.comparison import Comparison, Side
from kgen.comparison import compare as compare_files
from kgen.machine import Program
from kgen.tuned_file import load_file

_COLUMNS = {"issued_flops": ("MFLOP", 1e6), "dram_bytes": ("DRAM KB", 1e3), "l2_bytes": ("L2 KB", 1e3)}
_COLUMNS |= {"shared_bytes": ("shared KB", 1e3)}


def compare(
    left: Annotated[Path, typer.Argument(help="A file of tuned configs.")],
    right: Annotated[Path, typer.Argument(help="Another, of another GPU, version or search.")],
    stages: Annotated[bool, typer.Option("--stages", help="Each problem's kernels, stage by stage.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the problems that two files of tuned configs have in common."""
    found = compare_files(load_file(left), load_file(right))
    if as_json:
        print_json([_document(one) for one in found])
        return
    screen = console()
    screen.print(_summary(found))
    for one in found:
        screen.print(f"{one.problem}: {'; '.join(one.differences) or 'the same config'}", soft_wrap=True)
        if stages:
            for side in (one.left, one.right):
                screen.print(_stages(side))


def _summary(found: tuple[Comparison, ...]) -> Table:
    first = found[0]
    rows = table("problem", first.left.gpu, first.right.gpu, "times as fast", "efficiency", "shared bytes", "CTAs")
    for one in found:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        sides = (one.left, one.right)
        rows.add_row(str(one.problem), *map(_time, sides), ratio, *(_both(sides, cell) for cell in _CELLS))
    return rows


def _time(side: Side) -> str:
    return "" if side.us is None else f"{side.us:.1f} us {side.how}"


def _efficiency(side: Side) -> str:
    return f"{side.entry.measured.efficiency:.1%}" if side.entry.measured else "-"


def _shared(side: Side) -> str:
    return "-" if side.program is None else "+".join(str(kernel.shared_bytes) for kernel in side.program.kernels)


def _ctas(side: Side) -> str:
    return "-" if side.program is None else "+".join(str(kernel.grid) for kernel in side.program.kernels)


_CELLS = (_efficiency, _shared, _ctas)


def _both(sides: tuple[Side, Side], cell: Any) -> str:
    return ", ".join(map(cell, sides))


def _stages(side: Side) -> Table:
    rows = table(f"{side.gpu}: {side.how}", *(name for name, _ in _COLUMNS.values()))
    for kernel, stage in _every_stage(side.program):
        figures = (f"{getattr(stage, field) / unit:,.1f}" for field, (_, unit) in _COLUMNS.items())
        rows.add_row(f"{kernel.symbol}: {stage.name}", *figures)
    return rows


def _every_stage(program: Program | None) -> list[tuple[Any, Any]]:
    return [(kernel, stage) for kernel in program.kernels for stage in kernel.stages] if program else []


def _document(one: Comparison) -> dict[str, Any]:
    return {
        "problem": one.problem.to_json(),
        "ratio": one.ratio,
        "differences": list(one.differences),
        "sides": [
            {
                "gpu": side.gpu,
                "us": side.us,
                "how": side.how,
                "config": side.entry.config.to_json(),
                "kernels": [
                    {"symbol": kernel.symbol, "stage": stage.name, **{name: getattr(stage, name) for name in _COLUMNS}}
                    for kernel, stage in _every_stage(side.program)
                ],
            }
            for side in (one.left, one.right)
        ],
    }
