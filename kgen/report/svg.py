"""Charts as SVG elements: numbers become coordinates here, and the page's template adds the texts, escaped."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from kgen.report.charts import Chart
from kgen.report.scales import Scale, label, scale

WIDTH, HEIGHT = 460, 300
_FRONT = ' class="front"'
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 10, 44


@dataclass(frozen=True)
class Tick:
    """Where a grid line lies, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart of points or steps in the coordinates of its box; ``marks`` are elements without any text."""

    chart: Chart
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: Markup

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM


def draw(chart: Chart) -> Drawing:
    """``chart``, which has points, in coordinates."""
    xs, ys = [point.x for point in chart.points], [point.y for point in chart.points]
    if chart.log:  # one range for both, so that equal values lie on the diagonal
        xs = ys = [*xs, *ys]
    x = scale([*xs, chart.until] if chart.until else xs, _LEFT, WIDTH - _RIGHT, log=chart.log)
    y = scale(ys, HEIGHT - _BOTTOM, _TOP, log=chart.log)
    lines = _staircase(chart, x, y) if chart.kind == "steps" else _diagonal(x, y) if chart.log else ""
    circles = "".join(
        f'<circle cx="{x.at(point.x):.1f}" cy="{y.at(point.y):.1f}" r="3" data-t="{point.trial}"'
        f"{_FRONT if point.trial in chart.front else ''}/>"
        for point in chart.points
    )
    return Drawing(chart, _ticks(x), _ticks(y), Markup(lines + circles))  # numbers alone


def _ticks(axis: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(round(axis.at(value), 1), label(value)) for value in axis.ticks)


def _staircase(chart: Chart, x: Scale, y: Scale) -> str:
    first = chart.points[0]
    path = f"M{x.at(first.x):.1f} {y.at(first.y):.1f}"
    path += "".join(f"H{x.at(point.x):.1f}V{y.at(point.y):.1f}" for point in chart.points[1:])
    return f'<path d="{path}H{x.at(chart.until):.1f}"/>'


def _diagonal(x: Scale, y: Scale) -> str:
    ends = (x.at(x.low), y.at(y.low), x.at(x.high), y.at(y.high))
    return '<path class="equal" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>'.format(*ends)
