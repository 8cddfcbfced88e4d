"""A network's profile over its waterline: a bar a layer, as wide as its time and as high as its efficiency."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from kgen.analysis.figure import new_figure, save
from kgen.networks.profile import Profile, ProfiledLayer

_TIME, _WATERLINE = "#6baed6", "#1f77b4"
_NAMED_SHARE = 0.015  # of the time; narrower bars have no room for a name


def draw(profile: Profile, title: str, out: Path) -> None:
    """Write the plot, in the format of the file's suffix.

    Width times height is the ideal time: what is filled is worked, what lies between a bar and the waterline is lost by
    the kernel, and what lies above the waterline by its bytes.

    Raises:
        ProblemError: matplotlib is not installed, or the file cannot be written or has another suffix.
    """
    figure = new_figure(out, 12, 5)
    axes = figure.subplots()
    times = [layer.times for layer in profile.layers]
    ends = list(accumulate(one.us for one in times))
    starts = [end - one.us for end, one in zip(ends, times, strict=True)]
    heights, water = [one.efficiency for one in times], [one.attainable_efficiency for one in times]
    widths = [one.us for one in times]
    axes.bar(starts, heights, widths, align="edge", color=_TIME, edgecolor="white", linewidth=0.5, label="efficiency")
    axes.stairs(water, [0.0, *ends], color=_WATERLINE, baseline=None, label="attainable by the waterline")
    for layer, start in zip(profile.layers, starts, strict=True):
        if profile.share(layer) > _NAMED_SHARE:
            _name(axes, layer, start)
    axes.set(xlim=(0, ends[-1]), ylim=(0, max(1.0, *heights, *water) * 1.15))  # room for the legend
    axes.set(xlabel="time in a call, us", ylabel="ideal time / time", title=title)
    axes.legend(loc="upper right", ncols=2)
    save(figure, out)


def _name(axes: Any, layer: ProfiledLayer, start: float) -> None:
    middle = start + layer.times.us / 2
    axes.annotate(
        layer.name,
        (middle, 0),
        xytext=(0, 3),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=7,
    )
