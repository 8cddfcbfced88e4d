"""A report's charts as PNG and SVG files, by matplotlib, which is imported only here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kgen.errors import ProblemError
from kgen.report.charts import Chart
from kgen.report.study import StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

_SIZE_INCHES = (6.4, 4.2)
_DPI = 160


def save_figures(report: StudyReport, folder: Path) -> list[Path]:
    """Draw every chart into ``folder``, each as ``<name>.png`` and ``<name>.svg``.

    Raises:
        ProblemError: matplotlib is missing, or the folder is not writable.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ProblemError("--figures needs matplotlib, but it was not found; pip install 'kgen[plot]'") from error
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in report.charts:
            figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
            draw_chart(chart, figure)
            for suffix in ("png", "svg"):
                path = folder / f"{chart.name}.{suffix}"
                figure.savefig(path, dpi=_DPI)
                written.append(path)
    except OSError as error:
        raise ProblemError(
            f"--figures must be a writable folder, but {folder} is not ({error.strerror}); choose another"
        ) from error
    return written


def draw_chart(chart: Chart, figure: FigureBase) -> None:
    """Draw a chart into an empty figure, or into a part of one."""
    if chart.parts:
        axes, strip = figure.subplots(2, 1, height_ratios=(12, 1))
        _draw_parts(chart, strip)
    else:
        axes = figure.subplots()
    _draw(chart, axes)


def _draw(chart: Chart, axes: Axes) -> None:
    axes.set_title(chart.title)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.kind == "bars":
        axes.barh([bar.label for bar in chart.bars], [bar.share for bar in chart.bars])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:.0%}")
        return
    xs, ys = [point.x for point in chart.points], [point.y for point in chart.points]
    axes.grid(alpha=0.3)
    if chart.kind == "steps":
        axes.step([*xs, chart.until], [*ys, ys[-1]], where="post", marker="o", markersize=3)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        return
    axes.scatter(xs, ys, s=12, alpha=0.6)
    front = [point for point in chart.points if point.trial in chart.front]
    axes.scatter([point.x for point in front], [point.y for point in front], s=24)
    if chart.log:
        ends = [min(*xs, *ys), max(*xs, *ys)]
        axes.plot(ends, ends, linestyle="--", color="gray")
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _draw_parts(chart: Chart, axes: Axes) -> None:
    left = 0.0
    for part in chart.parts:
        axes.barh([0], [part.share], left=left, label=f"{part.label} {part.share:.0%}")
        left += part.share
    axes.set_xlim(0, left)
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(chart.parts), frameon=False, fontsize=7)
