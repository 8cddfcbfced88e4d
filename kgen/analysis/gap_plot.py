"""The efficiency gap plot: two marks a model, joined by a line as long as the gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kgen.analysis.figure import new_figure, save
from kgen.analysis.gap import Mark, front

_IDEAL, _ACTUAL = "tab:green", "tab:blue"
_BAND = 0.7  # percent of accuracy, between models without one


def draw(marks: Sequence[Mark], title: str, out: Path) -> None:
    """Write the plot, in the format of the file's suffix: accuracy over latency on a log axis, with both Pareto fronts.

    Models without a published accuracy lie in a band of their own at the foot.

    Raises:
        ProblemError: matplotlib is not installed, or the file cannot be written or has another suffix.
    """
    figure = new_figure(out, 8, 5)
    axes = figure.subplots()
    for mark, height in zip(marks, heights(marks), strict=True):
        axes.plot([mark.ideal_ms, mark.latency_ms], [height, height], color="tab:gray", linewidth=1, zorder=1)
        axes.plot(mark.ideal_ms, height, "o", color=_IDEAL, fillstyle="none")
        axes.plot(mark.latency_ms, height, "o", color=_ACTUAL)
        middle = (math.sqrt(mark.ideal_ms * mark.latency_ms), height)
        axes.annotate(f"{mark.model}, {mark.runner}", middle, textcoords="offset points", xytext=(0, 3), ha="center")
    _front(axes, marks, lambda one: one.ideal_ms, _IDEAL, "best at ideal latency")
    _front(axes, marks, lambda one: one.latency_ms, _ACTUAL, "best at actual latency")
    _band(axes, marks)
    axes.set(xscale="log", xlabel="latency of a batch, ms", ylabel="ImageNet-1K top-1, %", title=title)
    axes.legend(loc="upper left")
    save(figure, out)


def heights(marks: Sequence[Mark]) -> list[float]:
    """Where each mark lies: at its accuracy, or in the band below the least one."""
    foot = _foot(marks)
    unrated = {name: i for i, name in enumerate(dict.fromkeys(m.model for m in marks if m.top1_percent is None))}
    return [foot - _BAND * (1 + unrated[m.model]) if m.top1_percent is None else m.top1_percent for m in marks]


def _foot(marks: Sequence[Mark]) -> float:
    return min((mark.top1_percent for mark in marks if mark.top1_percent is not None), default=0.0) - _BAND


def _front(axes: Any, marks: Sequence[Mark], latency_ms: Callable[[Mark], float], color: str, label: str) -> None:
    best = front(marks, latency_ms)
    latencies_ms, accuracies = [latency_ms(mark) for mark in best], [mark.top1_percent for mark in best]
    axes.plot(latencies_ms, accuracies, "--", color=color, linewidth=1, label=label)


def _band(axes: Any, marks: Sequence[Mark]) -> None:
    """Set off models without an accuracy, where the axis has no meaning."""
    if any(mark.top1_percent is None for mark in marks):
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if _foot(marks) < tick < high])
        axes.set_ylim(low, high)
        axes.axhline(_foot(marks), color="tab:gray", linewidth=0.5)
        axes.annotate(
            "no published accuracy",
            (0.01, _foot(marks)),
            xycoords=("axes fraction", "data"),
            xytext=(0, -10),
            textcoords="offset points",
            color="tab:gray",
        )
