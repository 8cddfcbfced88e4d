"""Objectives: their names, how evaluations rank, and what a study tells of them."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from kgen.search.evaluate import Evaluation
from kgen.search.objectives import (
    BY_EFFICIENCY,
    Objective,
    merit,
    objectives_of,
    parse_objectives,
    set_objectives,
    shown,
    values_of,
)

from kgen.errors import ProblemError
from kgen.tuned import Measurement
from kgen.worker import Outcome

MEASURED = Measurement(10.0, 9.0, 11.0, 0.5, 1e-4, energy_j=0.02)
PASSED = Evaluation(Outcome.OK, efficiency=0.5, verified=True, measured=MEASURED, error=1e-4)


def test_latency_is_efficiency_by_another_name() -> None:
    assert parse_objectives("latency") == parse_objectives("efficiency") == BY_EFFICIENCY
    assert shown(parse_objectives("energy,latency,error")) == "energy,efficiency,error"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("speed", "--objective must be of efficiency, latency, energy, error, but got 'speed'"),
        ("energy,", "--objective must be of .*, but got ''"),
        ("energy,energy", "must name different objectives, but got 'energy,energy'"),
        ("efficiency,latency", "latency ranks as efficiency does"),
    ],
)
def test_other_names_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ProblemError, match=sentence):
        parse_objectives(text)


def test_values_are_told_where_all_are_known() -> None:
    every = parse_objectives("error,energy,efficiency")
    assert values_of(every, PASSED) == [1e-4, 0.02, 0.5]
    assert values_of(every, replace(PASSED, measured=None)) is None
    assert Objective.ENERGY.of(MEASURED) == 0.02


def test_the_first_objective_ranks_and_the_others_break_ties() -> None:
    wrong = replace(PASSED, error=2e-4)
    hungry = replace(PASSED, measured=replace(MEASURED, energy_j=0.03))
    fast, modelled = replace(PASSED, efficiency=0.6), replace(PASSED, measured=None)
    by_energy = parse_objectives("energy,error")
    ranked = sorted([hungry, wrong, modelled, PASSED, fast], key=lambda one: merit(by_energy, one), reverse=True)
    assert ranked == [fast, PASSED, wrong, hungry, modelled]
    assert max([hungry, wrong, PASSED, fast], key=lambda one: merit(BY_EFFICIENCY, one)) == fast


def test_a_study_tells_its_objectives() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = optuna.create_study(direction="maximize")
    set_objectives(plain, BY_EFFICIENCY)
    assert plain.metric_names is None and objectives_of(plain) == BY_EFFICIENCY
    several = parse_objectives("latency,energy")
    study = optuna.create_study(directions=[one.direction for one in several])
    set_objectives(study, several)
    assert study.metric_names == ["efficiency", "energy"] and objectives_of(study) == several
