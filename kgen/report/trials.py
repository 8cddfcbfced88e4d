"""A study as plain data: its problem and device, and each config that was tried, with what its plan says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kgen.blocks import family
from kgen.devices import Device
from kgen.errors import StudyError
from kgen.machine import Program
from kgen.search.about import About
from kgen.search.evaluate import Evaluation
from kgen.search.history import DUPLICATE_OF
from kgen.search.objectives import BY_EFFICIENCY, Objectives, merit, objectives_of
from kgen.tuned_file import TunedProblem
from kgen.worker import Outcome


@dataclass(frozen=True)
class PlanFacts:
    """What a config's plan says: the most of any of its kernels."""

    shared_bytes: int
    threads: int
    work_per_cta: float
    """Work items (tiles, or parts of them) that a CTA works through."""
    steps: int
    """Pipeline steps a work item."""


@dataclass(frozen=True)
class Trial:
    """One config that was tried. Its figures, from ``efficiency`` to ``error``, are None unless the outcome is ok."""

    number: int
    config: Mapping[str, Any]
    evaluation: Evaluation
    search_s: float | None
    """Seconds the study had been searched for when this config was done; None when a rule turned it down at once."""
    facts: PlanFacts | None

    @property
    def ok(self) -> bool:
        return self.evaluation.outcome is Outcome.OK

    @property
    def side(self) -> str:
        return str(self.config.get("boundary"))

    @property
    def efficiency(self) -> float | None:
        return self.evaluation.efficiency if self.ok else None

    @property
    def latency_us(self) -> float | None:
        return self.evaluation.latency_us if self.ok else None

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of a launch; None where they were not measured."""
        measured = self.evaluation.measured
        return 1e3 * measured.energy_j if self.ok and measured is not None and measured.energy_j is not None else None

    @property
    def error(self) -> float | None:
        return self.evaluation.error if self.ok else None

    @property
    def shared_bytes(self) -> int | None:
        """Shared memory a CTA by the plan; None where there is no plan."""
        return self.facts.shared_bytes if self.facts is not None else None

    @property
    def registers(self) -> int | None:
        """The most of any kernel."""
        return max(self.evaluation.registers.values(), default=None)


@dataclass(frozen=True)
class StudyTrials:
    """A study's trials in the order of their numbers, repeated and interrupted proposals left out."""

    name: str
    problem: TunedProblem
    device: Device
    trials: tuple[Trial, ...]
    objectives: Objectives = BY_EFFICIENCY
    front: frozenset[int] = frozenset()
    """The trials of the Pareto set, where there are several objectives."""

    @property
    def measured(self) -> bool:
        """Whether times come from a GPU, not from the model."""
        return self.device.ordinal is not None

    @property
    def split(self) -> bool:
        """Whether trials record what they waited for and ran, which those of older studies do not."""
        return any(trial.evaluation.wait_s is not None for trial in self.trials)

    @cached_property
    def passed(self) -> tuple[Trial, ...]:
        """Trials that ended well."""
        return tuple(trial for trial in self.trials if trial.ok)

    @cached_property
    def winner(self) -> Trial:
        """The first that is the best by the first objective among verified trials."""
        verified = (trial for trial in self.passed if trial.evaluation.verified)
        return max(verified, key=lambda one: merit(self.objectives, one.evaluation))

    def plan(self, config: Mapping[str, Any]) -> Program:
        """The plan of ``config`` on the study's device."""
        return _plan(self.problem, self.device, config)


def read_study(study: optuna.Study) -> StudyTrials:
    """The trials of an Optuna study that ``kgen tune`` wrote.

    Raises:
        StudyError: the study is empty, is of another schema, or holds no verified config.
    """
    about, name = About.read(study), study.study_name
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    ended = [one for one in study.get_trials(deepcopy=False, states=states) if DUPLICATE_OF not in one.user_attrs]
    trials = tuple(_trial(one, about, name) for one in sorted(ended, key=lambda one: one.number))
    if not trials:
        raise StudyError(
            f"a report needs a study with trials, but {name!r} has none that ended; run its kgen tune command again"
        )
    if not any(trial.ok and trial.evaluation.verified for trial in trials):
        reason = " ".join(trials[-1].evaluation.reason.split())
        last = f" (the last one: {reason})" if reason else ""
        raise StudyError(
            f"a report needs a config that passed, but all {len(trials)} of {name!r} failed{last}; "
            "run its kgen tune command again with more trials"
        )
    objectives = objectives_of(study)
    front = frozenset(one.number for one in study.best_trials) if len(objectives) > 1 else frozenset()
    return StudyTrials(name, about.problem, about.device, trials, objectives, front)


def _trial(trial: FrozenTrial, about: About, study_name: str) -> Trial:
    attrs = trial.user_attrs
    try:
        config, evaluation, search_s = dict(attrs["config"]), Evaluation.from_attrs(attrs), attrs.get("search_s")
        _check_figures(evaluation, search_s)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"a study's trials must have the fields that kgen tune records, but trial {trial.number} of "
            f"{study_name!r} has not ({type(error).__name__}: {error}); name another study by --study"
        ) from error
    facts = _facts(about, config) if evaluation.outcome is Outcome.OK else None
    return Trial(trial.number, config, evaluation, search_s, facts)


def _check_figures(evaluation: Evaluation, search_s: Any) -> None:
    """Refuse what is no number, so that nothing after this has to ask."""
    of = evaluation
    figures = [of.efficiency, of.predicted_us, of.compile_s, of.wait_s, of.run_s, of.spill_bytes]
    figures += [of.error, search_s]
    figures += [*of.registers.values(), *(asdict(of.measured).values() if of.measured else ())]
    for figure in figures:
        if figure is not None and (not isinstance(figure, int | float) or not math.isfinite(figure)):
            raise ValueError(f"{figure!r} is not a finite number")
    if not isinstance(of.reason, str):
        raise ValueError(f"{of.reason!r} is not a reason")
    if of.outcome is Outcome.OK and not ((of.efficiency or 0) > 0 and (of.latency_us or 0) > 0):
        raise ValueError("it passed without a latency and an efficiency")


def _facts(about: About, config: Mapping[str, Any]) -> PlanFacts | None:
    try:
        kernels = _plan(about.problem, about.device, config).kernels
    except Exception:  # a config of another kgen, whose fields may hold anything, has no plan here
        return None
    return PlanFacts(
        shared_bytes=max(kernel.shared_bytes for kernel in kernels),
        threads=max(kernel.threads for kernel in kernels),
        work_per_cta=max(kernel.work_items / kernel.grid for kernel in kernels),
        steps=max(kernel.steps for kernel in kernels),
    )


def _plan(problem: TunedProblem, device: Device, config: Mapping[str, Any]) -> Program:
    kind = family(problem.family)
    program: Program = kind.plan(problem, kind.config_from_json(config), device)
    return program


def config_text(config: Mapping[str, Any]) -> str:
    """A config on one line, without the fields that do not apply."""
    return ", ".join(f"{name}={_value(value)}" for name, value in config.items() if value is not None)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
