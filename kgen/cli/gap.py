"""``kgen gap-plot``: models by accuracy and latency, with the gap between ideal and actual."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kgen.analysis.gap import front, load_marks, load_network_marks
from kgen.cli.options import AsJson, print_json
from kgen.cli.tables import console, table


def gap_plot(
    data: Annotated[Path, typer.Argument(help="JSON file of models; benchmarks/gap/ has one.")],
    batch: Annotated[int, typer.Option(help="Batch size of the models to compare.")] = 256,
    networks: Annotated[
        Path | None, typer.Option(help="Results of benchmarks/networks.py, as more models, without accuracy.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .svg, .png or .pdf (extra plot).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the gap between each model's ideal and actual latency, and which models are best by either."""
    marks = load_marks(data, batch) + (() if networks is None else load_network_marks(networks, batch))
    ideal, actual = front(marks, lambda one: one.ideal_ms), front(marks, lambda one: one.latency_ms)
    if plot is not None:
        from kgen.analysis.gap_plot import draw

        draw(marks, f"Efficiency gap at batch {batch}", plot)
    if as_json:
        print_json(
            [
                asdict(mark) | {"gap": mark.gap, "best_at_ideal": mark in ideal, "best_at_actual": mark in actual}
                for mark in marks
            ]
        )
        return
    rows = table("model", "runner", "top-1 %", "ideal ms", "actual ms", "gap", "best by")
    for mark in sorted(marks, key=lambda one: one.latency_ms):
        best = [name for name, chosen in (("ideal", ideal), ("actual", actual)) if mark in chosen]
        accuracy = "" if mark.top1_percent is None else f"{mark.top1_percent:.1f}"
        figures = (f"{mark.ideal_ms:.3f}", f"{mark.latency_ms:.3f}", f"{mark.gap:.1f}x", ", ".join(best))
        rows.add_row(mark.model, mark.runner, accuracy, *figures)
    console().print(rows)
