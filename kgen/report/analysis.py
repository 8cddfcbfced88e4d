"""What trials say: pure functions from a study's trials to figures."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kgen.report.trials import StudyTrials, Trial, config_text

TOP = 10
_FEWEST = 10
"""Configs below which a parameter's importance would be chance."""
COMPILING, SAMPLING, FAILING = "waiting for compilation", "sampling", "failing"
MODELLING = "modelling configs that need no verifying"
COMPILING_BESIDE = "compiling (beside the rest, in several processes)"
_RUNNING = {True: "verifying and measuring", False: "verifying in the emulator"}
"""By whether times are measured."""


@dataclass(frozen=True)
class Step:
    """The best config so far, of trial ``number``, which stands ``at`` its number or the seconds when it had ended."""

    number: int
    at: float
    latency_us: float


@dataclass(frozen=True)
class TimeShare:
    """Seconds spent on something, and their share of the seconds the study was searched for."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Importance:
    """Share of the variance of log latency that a parameter explains, among ``trials`` configs with ``values`` of it.

    It is adjusted for the number of values, so that a parameter that explains nothing comes out near 0.
    """

    parameter: str
    share: float
    values: int
    trials: int


@dataclass(frozen=True)
class Failure:
    """How often configs failed in one way, and the reason of the first."""

    kind: str
    count: int
    share: float
    example: str


@dataclass(frozen=True)
class ModelFit:
    """How well the model's predictions agree with ``trials`` measurements."""

    trials: int
    median_ratio: float
    """Predicted over measured."""
    rank_correlation: float
    """Spearman's: 1 when the model ranks as the measurements do."""


@dataclass(frozen=True)
class Ranked:
    """One of the best configs, and how it differs from the winner."""

    rank: int
    trial: Trial
    latency_us: float
    slower: float
    """Latency over the winner's, less 1."""
    difference: str


def by_number(trial: Trial) -> float:
    """Where a trial stands in the order in which configs were proposed."""
    return trial.number


def by_seconds(trial: Trial) -> float:
    """Where a trial stands in the order in which they ended: seconds of searching, 0 where unknown."""
    return trial.search_s or 0.0


def best_so_far(study: StudyTrials, at: Callable[[Trial], float]) -> tuple[Step, ...]:
    """Every trial that was the best verified one of those until then, in the order of ``at``."""
    steps: list[Step] = []
    for trial in sorted(study.passed, key=at):
        latency_us = trial.latency_us
        if latency_us is None or not trial.evaluation.verified:
            continue
        if not steps or latency_us < steps[-1].latency_us:
            steps.append(Step(trial.number, at(trial), latency_us))
    return tuple(steps)


def search_seconds(study: StudyTrials) -> float:
    """Seconds the study was searched for."""
    return max((trial.search_s or 0.0 for trial in study.trials), default=0.0)


def time_shares(study: StudyTrials) -> tuple[TimeShare, ...]:
    """Where the search's seconds went, the most first, and what compiling took in processes of its own.

    From one config's end to the next one's, the search waited for the latter's compilation, ran it, and did the rest:
    proposing configs and recording them. Older studies tell this whole time only, by how the latter ended.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    before_s = 0.0
    timed = [(trial.search_s, trial) for trial in study.trials if trial.search_s is not None]
    for end_s, trial in sorted(timed, key=lambda pair: pair[0]):
        for name, spent_s in _parts(study, trial, end_s - before_s):
            seconds[name] += spent_s
        before_s = end_s
    total_s = search_seconds(study)
    shares = [TimeShare(name, spent, _ratio(spent, total_s)) for name, spent in seconds.items()]
    compiled_s = sum(trial.evaluation.compile_s or 0.0 for trial in study.trials)
    beside = TimeShare(COMPILING_BESIDE, compiled_s, _ratio(compiled_s, total_s))
    return (*sorted(shares, key=lambda one: -one.seconds), beside)


def _parts(study: StudyTrials, trial: Trial, spent_s: float) -> list[tuple[str, float]]:
    """What a trial's time from the end of the one before to its own went into."""
    evaluation = trial.evaluation
    running = _RUNNING[study.measured]
    if evaluation.wait_s is None:
        passed = running if evaluation.verified else MODELLING
        return [(SAMPLING if not evaluation.compiled else passed if trial.ok else _failing(trial), spent_s)]
    wait_s, run_s = evaluation.wait_s, evaluation.run_s or 0.0
    rest = (SAMPLING, max(0.0, spent_s - wait_s - run_s))
    return [rest, (COMPILING, wait_s), (running, run_s)] if trial.ok else [rest, (_failing(trial), wait_s + run_s)]


def _failing(trial: Trial) -> str:
    return f"{FAILING}: {trial.evaluation.outcome.value}"


def time_groups(study: StudyTrials) -> tuple[TimeShare, ...]:
    """The same as four at most: compiling, measuring (or verifying), sampling, all failures. None of older studies."""
    if not study.split:
        return ()
    seconds: defaultdict[str, float] = defaultdict(float)
    for share in time_shares(study):
        if share.name != COMPILING_BESIDE:
            seconds[share.name.partition(":")[0]] += share.seconds
    order = (COMPILING, _RUNNING[study.measured], SAMPLING, FAILING)
    total_s = search_seconds(study)
    return tuple(TimeShare(name, seconds[name], _ratio(seconds[name], total_s)) for name in order if seconds[name])


def importances(study: StudyTrials) -> tuple[Importance, ...]:
    """How much each parameter matters: ``boundary`` among all configs, its fields among those on the winner's side."""
    passed = [trial for trial in study.passed if trial.latency_us]
    side = [trial for trial in passed if trial.side == study.winner.side]
    found = [_importance("boundary", passed)]
    fields = [name for name in study.winner.config if name != "boundary"]
    found += [_importance(name, side) for name in fields]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: (-one.share, one.parameter)))


def _importance(name: str, trials: Sequence[Trial]) -> Importance | None:
    """None when the trials have one value only, or too few for each value."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for trial in trials:
        groups[repr(trial.config.get(name))].append(math.log(trial.latency_us or 1.0))
    if len(groups) < 2 or len(trials) < max(_FEWEST, 2 * len(groups)):
        return None
    return Importance(name, variance_explained(list(groups.values())), len(groups), len(trials))


def variance_explained(groups: Sequence[Sequence[float]]) -> float:
    """Share of the variance between groups, 0 to 1, adjusted for the number of groups (epsilon squared)."""
    every = [value for group in groups for value in group]
    total = _squares(every) / (len(every) - 1)
    within = sum(_squares(group) for group in groups) / (len(every) - len(groups))
    return max(0.0, 1 - within / total) if total else 0.0


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


def failures(study: StudyTrials) -> tuple[Failure, ...]:
    """Failures by kind, the most frequent first."""
    failed = [trial.evaluation for trial in study.trials if not trial.ok]
    examples: dict[str, str] = {}
    for evaluation in failed:
        examples.setdefault(evaluation.kind, evaluation.reason)
    counts = Counter(evaluation.kind for evaluation in failed).most_common()
    return tuple(Failure(kind, count, count / len(study.trials), examples[kind]) for kind, count in counts)


def predictions(study: StudyTrials) -> tuple[tuple[Trial, float, float], ...]:
    """Trials with their predicted and their measured latency."""
    return tuple(
        (trial, trial.evaluation.predicted_us, trial.evaluation.measured.median_us)
        for trial in study.passed
        if trial.evaluation.predicted_us is not None and trial.evaluation.measured is not None
    )


def model_fit(study: StudyTrials) -> ModelFit | None:
    """How well predictions agree with measurements; None with fewer than two of them."""
    pairs = [(predicted, measured) for _, predicted, measured in predictions(study)]
    if len(pairs) < 2:
        return None
    ratio = statistics.median(predicted / measured for predicted, measured in pairs)
    ranks = [_ranks([pair[side] for pair in pairs]) for side in (0, 1)]
    return ModelFit(len(pairs), ratio, _correlation(*ranks))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, the mean of them for equal values."""
    positions: defaultdict[float, list[int]] = defaultdict(list)
    for position, value in enumerate(sorted(values)):
        positions[value].append(position)
    return [statistics.fmean(positions[value]) for value in values]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    mean = (len(one) - 1) / 2
    scale = math.sqrt(_squares(one) * _squares(other))
    return sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True)) / scale if scale else 0.0


def top(study: StudyTrials) -> tuple[Ranked, ...]:
    """The best configs, the winner first."""
    winner = study.winner
    others = sorted((one for one in study.passed if one is not winner), key=lambda one: one.latency_us or math.inf)
    best_us = winner.latency_us or math.nan
    return tuple(
        Ranked(rank, trial, trial.latency_us or 0.0, (trial.latency_us or 0.0) / best_us - 1, difference(trial, winner))
        for rank, trial in enumerate([winner, *others[: TOP - 1]], 1)
    )


def difference(trial: Trial, winner: Trial) -> str:
    """How a config differs from the winner's, in words."""
    if trial is winner:
        return "the winner"
    if trial.side != winner.side:
        own = {name: value for name, value in trial.config.items() if name != "boundary"}
        return f"boundary {trial.side} instead of {winner.side}, with {config_text(own)}"
    changed = [
        f"{name} {_word(value)} instead of {_word(winner.config.get(name))}"
        for name, value in trial.config.items()
        if value != winner.config.get(name)
    ]
    return ", ".join(changed) or "the same config"


def _word(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if isinstance(value, bool | None) else str(value)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
