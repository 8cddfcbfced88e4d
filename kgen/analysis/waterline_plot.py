"""The waterline plot: bars of operational intensity, and the waterline across them."""

from __future__ import annotations

from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

from kgen.analysis.bars import Bar, bars, caption
from kgen.analysis.figure import new_figure, save
from kgen.analysis.kernels import Sequence
from kgen.machine import waterline

_WATER, _ABOVE, _BELOW = "#1f77b4", "#bcbd22", "#6baed6"
_TEXT: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
_ROOM, _WIDE = 4, 0.25  # room below the lowest bar for its name; bars with room for a name across
_NAME_STYLE = _TEXT | {"rotation": 90, "ha": "center", "va": "top"}
_LEVEL_STYLE = _TEXT | {"color": _WATER, "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}}


def save_plot(path: Path, title: str, sequences: Items[Sequence]) -> None:
    """Draw sequences of one device side by side and save them in ``path``, in the format that its suffix names.

    Raises:
        ProblemError: another suffix, no matplotlib, or ``path`` cannot be written.
    """
    figure = new_figure(path, 6 * len(sequences), 5)
    figure.suptitle(title)
    panels = figure.subplots(1, len(sequences), sharey=True, squeeze=False)[0]
    for axes, sequence in zip(panels, sequences, strict=True):
        _draw(axes, sequence)
    lowest = min((bar.height for sequence in sequences for bar in bars(sequence)), default=1.0)
    panels[0].set_ylim(bottom=lowest / _ROOM)
    panels[0].set_ylabel("operational intensity (operations a byte)")
    save(figure, path)


def _draw(axes: Any, sequence: Sequence) -> None:
    level, found = waterline(sequence.device), bars(sequence)
    axes.set_yscale("log")
    axes.bar(
        [bar.left for bar in found],
        [bar.height for bar in found],
        [bar.width for bar in found],
        align="edge",
        color=[_BELOW if bar.under_water else _ABOVE for bar in found],
        edgecolor="white",
        linewidth=0.5,
    )
    axes.axhline(level, color=_WATER)
    axes.annotate(f"waterline {level:.0f}", (0.01, level), (0, 3), **_LEVEL_STYLE)
    for bar in found:
        _name(axes, bar)
    axes.set_xlim(0, 1)
    axes.set_title(caption(sequence), fontsize=9)
    axes.set_xlabel("share of the operations")


def _name(axes: Any, bar: Bar) -> None:
    """A name in every bar that is wide enough to read it."""
    if bar.width > 0.04:
        middle = bar.left + bar.width / 2
        style = _NAME_STYLE | ({"rotation": 0} if bar.width > _WIDE else {})
        axes.annotate(bar.name, (middle, bar.height), (0, -3), **style)
