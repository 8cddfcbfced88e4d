"""The charts of a report as data, which the page draws as SVG and ``--figures`` by matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from kgen.report.analysis import (
    best_so_far,
    by_number,
    by_seconds,
    importances,
    predictions,
    search_seconds,
    time_groups,
    time_shares,
)
from kgen.report.trials import StudyTrials, Trial
from kgen.search.objectives import Objective, shown


@dataclass(frozen=True)
class Point:
    """A mark; ``trial`` is the number of the trial it stands for."""

    x: float
    y: float
    trial: int


@dataclass(frozen=True)
class Bar:
    """A bar of a length that is a share of a whole."""

    label: str
    share: float


@dataclass(frozen=True)
class Chart:
    """``points`` are scattered, or the corners of a falling staircase; ``bars`` lie below one another.

    ``parts`` make up the whole of the x axis, and lie one after the other in a strip below it.

    ``name`` is a file's stem. ``until`` is where a staircase ends. ``log``: both axes are logarithmic, and a line shows
    where they are equal.
    """

    name: str
    title: str
    kind: Literal["scatter", "steps", "bars"]
    x_label: str
    y_label: str = ""
    points: tuple[Point, ...] = ()
    bars: tuple[Bar, ...] = ()
    parts: tuple[Bar, ...] = ()
    until: float = 0.0
    log: bool = False
    front: tuple[int, ...] = ()
    """Trials whose points stand out: those of the Pareto set."""


_AGAINST: tuple[tuple[str, str, Callable[[Trial], float | None]], ...] = (
    ("registers", "registers a thread", lambda trial: trial.registers),
    ("shared", "shared memory a CTA, KiB", lambda trial: trial.facts.shared_bytes / 1024 if trial.facts else None),
    ("spills", "bytes spilled", lambda trial: trial.evaluation.spill_bytes),
    ("work", "work items a CTA", lambda trial: trial.facts.work_per_cta if trial.facts else None),
    ("threads", "threads a CTA", lambda trial: trial.facts.threads if trial.facts else None),
    ("steps", "pipeline steps a work item", lambda trial: trial.facts.steps if trial.facts else None),
)
"""What efficiency is drawn against: the chart's name, the axis, and the figure of a trial."""


_AXES: Mapping[Objective, tuple[str, Callable[[Trial], float | None]]] = {
    Objective.EFFICIENCY: ("latency, us", lambda trial: trial.latency_us),
    Objective.ENERGY: ("energy of a launch, mJ", lambda trial: trial.energy_mj),
    Objective.ERROR: ("relative error", lambda trial: trial.error),
}
"""An objective's axis, of which less is better, and the figure of a trial."""


def charts(study: StudyTrials) -> tuple[Chart, ...]:
    """Every chart that the study has data for."""
    every = [
        *_best(study),
        *(_pareto(study, other) for other in study.objectives[1:]),
        _bars("time", "Where the time went", "share of the search", [(s.name, s.share) for s in time_shares(study)]),
        *(_efficiency(study, name, label, figure) for name, label, figure in _AGAINST),
        _bars(
            "importances",
            "What parameters explain",
            "share of the variance of log latency",
            [(one.parameter, one.share) for one in importances(study)],
        ),
        _predicted(study),
    ]
    return tuple(chart for chart in every if chart.points or chart.bars)


def _best(study: StudyTrials) -> list[Chart]:
    label = f"best latency, us{'' if study.measured else ' (modelled)'}"
    spent = tuple(Bar(one.name, one.share) for one in time_groups(study))
    by: list[tuple[str, str, Callable[[Trial], float], float, tuple[Bar, ...]]] = [
        ("trials", "trial", by_number, study.trials[-1].number, ()),
        ("seconds", "seconds of searching", by_seconds, search_seconds(study), spent),
    ]
    return [
        Chart(
            name=f"best-by-{name}",
            title=f"Best so far, by {name}",
            kind="steps",
            x_label=axis,
            y_label=label,
            points=tuple(Point(step.at, step.latency_us, step.number) for step in best_so_far(study, at)),
            parts=parts,
            until=until,
        )
        for name, axis, at, until, parts in by
    ]


def _pareto(study: StudyTrials, other: Objective) -> Chart:
    """The first objective against another one."""
    (x_label, x_of), (y_label, y_of) = _AXES[study.objectives[0]], _AXES[other]
    every = [(x_of(trial), y_of(trial), trial.number) for trial in study.passed]
    points = tuple(Point(x, y, number) for x, y, number in every if x is not None and y is not None)
    title = f"The Pareto set by {shown(study.objectives).replace(',', ', ')}"
    return Chart(f"pareto-{other.value}", title, "scatter", x_label, y_label, points, front=tuple(sorted(study.front)))


def _efficiency(study: StudyTrials, name: str, label: str, figure: Callable[[Trial], float | None]) -> Chart:
    pairs = [(trial, figure(trial)) for trial in study.passed]
    points = [Point(x, 100 * (trial.efficiency or 0.0), trial.number) for trial, x in pairs if x is not None]
    return Chart(f"efficiency-{name}", f"Efficiency against {label}", "scatter", label, "efficiency, %", tuple(points))


def _predicted(study: StudyTrials) -> Chart:
    points = tuple(Point(measured, predicted, trial.number) for trial, predicted, measured in predictions(study))
    title = "Predicted against measured latency"
    return Chart("predicted", title, "scatter", "measured, us", "predicted, us", points, log=True)


def _bars(name: str, title: str, label: str, shares: list[tuple[str, float]]) -> Chart:
    return Chart(name, title, "bars", label, bars=tuple(Bar(text, share) for text, share in shares))
