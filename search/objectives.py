"""What a search optimizes. At a fixed problem latency is efficiency's inverse, so both names mean one objective.

A study tells its objectives by Optuna's names of its metrics; one without any is of efficiency.
"""

from __future__ import annotations

import math
import warnings
from enum import Enum
from typing import Literal

import optuna
from kgen.search.evaluate import Evaluation

from kgen.errors import ProblemError, StudyError
from kgen.tuned import Measurement


class Objective(str, Enum):
    """One of them, by its name on the command line; its value is positive for every config that passed."""

    EFFICIENCY = "efficiency"
    ENERGY = "energy"
    ERROR = "error"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """As Optuna calls it."""
        return "maximize" if self.sign > 0 else "minimize"

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self is Objective.EFFICIENCY else -1

    def of(self, found: Evaluation | Measurement) -> float | None:
        """Its value: computational efficiency, joules a launch, or relative L2 error; None where it is not known."""
        if self is Objective.ENERGY:
            measured = found.measured if isinstance(found, Evaluation) else found
            return measured.energy_j if measured else None
        return found.error if self is Objective.ERROR else found.efficiency


Objectives = tuple[Objective, ...]
BY_EFFICIENCY: Objectives = (Objective.EFFICIENCY,)
_ALIASES = {"latency": Objective.EFFICIENCY}
NAMES = ("efficiency", "latency", "energy", "error")


def parse_objectives(text: str) -> Objectives:
    """Objectives of ``--objective``, such as ``energy`` or ``latency,error``.

    Raises:
        ProblemError: one of them is unknown, or there twice.
    """
    names = text.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ProblemError(
            f"--objective must be of {', '.join(NAMES)}, but got {unknown[0]!r}; pass one, or energy,error"
        )
    found = [_ALIASES.get(name) or Objective(name) for name in names]
    if len(set(found)) < len(found):
        raise ProblemError(
            f"--objective must name different objectives, but got {text!r} (latency ranks as efficiency does); drop one"
        )
    return tuple(found)


def shown(objectives: Objectives) -> str:
    """As ``--objective`` names them."""
    return ",".join(one.value for one in objectives)


def objectives_of(study: optuna.Study) -> Objectives:
    """The objectives of a study, the first one first.

    Raises:
        StudyError: it has others than kgen's.
    """
    names = study.metric_names
    try:
        return BY_EFFICIENCY if names is None else tuple(Objective(name) for name in names)
    except ValueError as error:
        raise StudyError(
            f"a study's metrics must be of {', '.join(Objective)}, but those of {study.study_name!r} are "
            f"{', '.join(names or ())}; name another study by --study"
        ) from error


def set_objectives(study: optuna.Study, objectives: Objectives) -> None:
    """Let a new study, which was created with their directions, tell them."""
    if objectives == BY_EFFICIENCY:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([one.value for one in objectives])


def values_of(objectives: Objectives, evaluation: Evaluation) -> list[float] | None:
    """What Optuna is told of an evaluation; None unless every objective is known."""
    values = [one.of(evaluation) for one in objectives]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def merit(objectives: Objectives, evaluation: Evaluation) -> tuple[float, ...]:
    """Greater for a better evaluation: by the first objective, in a tie by the others in turn, last by efficiency."""
    every = dict.fromkeys([*objectives, Objective.EFFICIENCY])
    values = ((one, one.of(evaluation)) for one in every)
    return tuple(-math.inf if value is None else value * one.sign for one, value in values)
