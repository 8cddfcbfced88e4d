"""A study as plain data: its problem and device, and each config that was tried, with what its plan says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    """One config that was tried. ``latency_us`` and ``efficiency`` are None unless the outcome is ok."""

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

    @property
    def measured(self) -> bool:
        """Whether times come from a GPU, not from the model."""
        return self.device.ordinal is not None

    @cached_property
    def passed(self) -> tuple[Trial, ...]:
        """Trials that ended well."""
        return tuple(trial for trial in self.trials if trial.ok)

    @cached_property
    def winner(self) -> Trial:
        """The first of the highest efficiency among verified trials."""
        return max((trial for trial in self.passed if trial.evaluation.verified), key=lambda one: one.efficiency or 0.0)

    def plan(self, config: Mapping[str, Any]) -> Program:
        """The plan of ``config`` on the study's device."""
        kind = family(self.problem.family)
        program: Program = kind.plan(self.problem, kind.config_from_json(config), self.device)
        return program


def read_study(study: optuna.Study) -> StudyTrials:
    """The trials of an Optuna study that ``kgen tune`` wrote.

    Raises:
        StudyError: the study is empty, is of another schema, or holds no verified config.
    """
    empty = StudyTrials(study.study_name, *_about(study), trials=())
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    ended = [one for one in study.get_trials(deepcopy=False, states=states) if DUPLICATE_OF not in one.user_attrs]
    trials = tuple(_trial(one, empty) for one in sorted(ended, key=lambda one: one.number))
    found = StudyTrials(empty.name, empty.problem, empty.device, trials)
    if not trials:
        raise StudyError(
            f"a report needs a study with trials, but {found.name!r} has none that ended; "
            "run its kgen tune command again"
        )
    if not any(trial.evaluation.verified for trial in found.passed):
        last = f" (the last one: {trials[-1].evaluation.reason})" if trials[-1].evaluation.reason else ""
        raise StudyError(
            f"a report needs a config that passed, but all {len(trials)} of {found.name!r} failed{last}; "
            "run its kgen tune command again with more trials"
        )
    return found


def _about(study: optuna.Study) -> tuple[TunedProblem, Device]:
    about = About.read(study)
    return about.problem, about.device


def _trial(trial: FrozenTrial, study: StudyTrials) -> Trial:
    attrs = trial.user_attrs
    try:
        config, evaluation = dict(attrs["config"]), Evaluation.from_attrs(attrs)
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"a study's trials must have the fields that kgen tune records, but trial {trial.number} of "
            f"{study.name!r} has not ({type(error).__name__}: {error}); name another study by --study"
        ) from error
    facts = _facts(study, config) if evaluation.outcome is Outcome.OK else None
    return Trial(trial.number, config, evaluation, attrs.get("search_s"), facts)


def _facts(study: StudyTrials, config: Mapping[str, Any]) -> PlanFacts | None:
    try:
        kernels = study.plan(config).kernels
    except Exception:  # a config of another kgen, whose fields may hold anything, has no plan here
        return None
    return PlanFacts(
        shared_bytes=max(kernel.shared_bytes for kernel in kernels),
        threads=max(kernel.threads for kernel in kernels),
        work_per_cta=max(kernel.work_items / kernel.grid for kernel in kernels),
        steps=max(kernel.steps for kernel in kernels),
    )


def config_text(config: Mapping[str, Any]) -> str:
    """A config on one line, without the fields that do not apply."""
    return ", ".join(f"{name}={_value(value)}" for name, value in config.items() if value is not None)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
