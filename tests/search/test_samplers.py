"""Samplers by name: whatever they propose is listed and new, failures are learnt, and searches go on and repeat."""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import optuna
import pytest
from kgen.search import samplers
from kgen.search.evaluate import Evaluation
from kgen.search.features import ABSENT, Featurizer
from kgen.search.objectives import parse_objectives, set_objectives
from kgen.search.replay import replay
from kgen.search.samplers import SAMPLERS, check_sampler, make_sampler
from kgen.search.space import Space, recorded_space
from optuna.trial import TrialState
from search_fakes import efficiency_of, make_space
from synthetic import DEVICE, synthetic_space

from kgen.blocks.convfirst import config_from_json, plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.errors import StudyError
from kgen.model import predict_us
from kgen.worker import Outcome

PROBLEM = ConvFirst(2, 7, 7, 64)
FAST = ("kgen", "tpe", "random", "cmaes")


def installed(name: str) -> Any:
    try:
        check_sampler(name)
    except StudyError as error:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(error)))
    return name


def plan_of(config: Any) -> Any:
    return plan(PROBLEM, config, DEVICE)


@pytest.mark.parametrize("name", [installed(name) for name in SAMPLERS])
def test_each_proposal_is_listed_and_new(name: str) -> None:
    trials = 60 if name in ("tpe", "random") else 24
    replayed = replay(synthetic_space(PROBLEM, 60), trials=trials, budget_s=1e9, sampler=name, seed=1)
    configs = [config for config, _ in replayed.found]
    assert len(configs) == len(set(configs)) >= min(trials, 55)


@pytest.mark.parametrize("name", [installed(name) for name in FAST])
def test_equal_seeds_propose_alike(name: str) -> None:
    runs = [
        replay(synthetic_space(PROBLEM, 60), trials=25, budget_s=1e9, sampler=name, seed=seed, ahead=0)
        for seed in (1, 1, 2)
    ]
    assert runs[0].found == runs[1].found != runs[2].found


@pytest.mark.parametrize("name", [installed(name) for name in FAST])
def test_what_was_evaluated_is_what_a_study_has(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = real_space(), optuna.create_study(direction="maximize")
    study.sampler = make_sampler(name, space, study, plan_of, 0)
    for number in range(20):
        trial = study.ask()
        config = space.suggest(trial)
        assert config in space and trial.params == space.params(config)
        space.take(config)
        if number % 4 == 3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, 1 / predict_us(plan_of(config)))
    resumed = make_sampler(name, space, study, plan_of, 1)
    study.sampler = resumed
    assert space.suggest(study.ask()) in space


def real_space() -> Space:
    return recorded_space(config_from_json, list(synthetic_space(PROBLEM, 60).evaluations))


def test_kgens_own_needs_fewer_evaluations_than_chance() -> None:
    """In the median of spaces; where the best config is an outlier of its side, no sampler finds it soon."""
    spaces = [synthetic_space(PROBLEM, 200, seed) for seed in range(6)]

    def evaluations(name: str) -> float:
        runs = (replay(space, trials=40, budget_s=1e9, sampler=name, ahead=0) for space in spaces)
        return median(run.until(0.05) or 41 for run in runs)

    assert evaluations("kgen") <= evaluations("random") / 3


def test_the_first_are_the_models_favourites() -> None:
    recorded = synthetic_space(PROBLEM, 60)
    first = [config for config, _ in replay(recorded, trials=4, budget_s=1e9, ahead=0).found]

    def predicted(config: Any) -> float:
        return predict_us(plan_of(config))

    assert first == sorted(recorded.evaluations, key=predicted)[:4]


def test_failures_are_learnt_and_avoided() -> None:
    """On a side whose every config fails, fewer are tried than chance would have it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = real_space(), optuna.create_study(direction="maximize")
    study.sampler = make_sampler("kgen", space, study, plan_of, 0)
    failing = [config for config in space.left if config.boundary == "fused"]
    tried = []
    for _ in range(30):
        trial = study.ask()
        config = space.suggest(trial)
        space.take(config)
        tried.append(config.boundary)
        if config.boundary == "fused":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, 1 / predict_us(plan_of(config)))
    assert tried.count("fused") < 30 * len(failing) / (len(failing) + len(space))


def test_candidates_under_way_differ() -> None:
    space, study = real_space(), optuna.create_study(direction="maximize")
    study.sampler = make_sampler("kgen", space, study, plan_of, 0)
    asked = []
    for _ in range(12):
        trial = study.ask()
        asked.append(space.suggest(trial))
        space.take(asked[-1])
    assert len(set(asked)) == 12


def test_features_begin_with_the_models_prediction_and_name_what_a_side_lacks() -> None:
    space = real_space()
    featurize = Featurizer(space.choices, plan_of)
    rows = {config.boundary: featurize(config) for config in space.left}
    assert len({len(row) for row in rows.values()}) == 1
    for config in space.left[:5]:
        assert 2 ** featurize(config)[0] == pytest.approx(predict_us(plan_of(config)), rel=1e-5)
    assert (rows["cluster"] == ABSENT).sum() > (rows["split"] == ABSENT).sum()


def test_optunas_samplers_learn_what_stood_in_for_their_proposals() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = make_space(), optuna.create_study(direction="maximize")
    study.sampler = sampler = make_sampler("tpe", space, study, plan_of, 0)
    told = []
    for _ in range(30):
        trial = study.ask()
        config: Any = space.suggest(trial)
        space.take(config)
        told.append(json.dumps(config.to_json(), sort_keys=True))
        study.tell(trial, efficiency_of(config))
    shadowed = []
    for side, shadow in sampler._shadows.items():  # type: ignore[attr-defined]
        for one in shadow.get_trials(states=(TrialState.COMPLETE,)):
            values = {name: space.choices[side][name][place] for name, place in one.params.items()}
            shadowed.append(json.dumps({"boundary": side, **values}, sort_keys=True))
    assert sorted(shadowed) == sorted(told)


def test_unknown_or_missing_samplers_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match="sampler must be one of kgen, tpe, random, gp, cmaes, but got 'best'"):
        check_sampler("best")
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match="sampler cmaes needs cmaes, but it is not installed; pip install cmaes"):
        check_sampler("cmaes")


def test_what_takes_one_objective_says_so() -> None:
    with pytest.raises(StudyError, match="cmaes takes one objective, but got 2; choose kgen, tpe, random or gp"):
        check_sampler("cmaes", objectives=2)
    for name, count in (("tpe", 1), ("kgen", 2)):
        with pytest.raises(StudyError, match=f"--until needs the sampler kgen and one .*, but got {name} and {count};"):
            check_sampler(name, objectives=count, until=True)
    check_sampler("kgen", until=True)


def traded(name: str, seed: int, trials: int) -> float:
    """The area that a search's Pareto set dominates, where energy falls with a latency only down to a point.

    Figures are those of a synthetic space, as shares of its least ones; the area is that within four times the least.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = synthetic_space(PROBLEM, 200)
    space = recorded_space(config_from_json, list(recorded.evaluations))
    study = optuna.create_study(directions=["maximize", "minimize"])
    set_objectives(study, parse_objectives("efficiency,energy"))
    study.sampler = make_sampler(name, space, study, plan_of, seed)
    while len(study.trials) < trials:
        trial = study.ask()
        config = space.suggest(trial)
        space.take(config)
        evaluation = recorded.evaluations[config]
        if evaluation.outcome is Outcome.OK:
            study.tell(trial, [evaluation.efficiency or 0.0, energy_of(config, evaluation)])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    passed = {config: one for config, one in recorded.evaluations.items() if one.outcome is Outcome.OK}
    least_j = min(energy_of(config, one) for config, one in passed.items())
    points = {
        (recorded.best.efficiency or 0.0) / trial.values[0]: trial.values[1] / least_j for trial in study.best_trials
    }
    corners = [*sorted(x for x in points if x < 4), 4.0]
    return sum((right - x) * max(0.0, 4.0 - points[x]) for x, right in pairwise(corners))


def energy_of(config: Any, evaluation: Evaluation) -> float:
    """Of a GPU whose power is less with fewer threads."""
    threads = max(kernel.threads for kernel in plan_of(config).kernels)
    return (evaluation.latency_us or 0.0) * (threads / 128) ** 0.7


@pytest.mark.parametrize("name", [installed(name) for name in ("tpe", "gp")])
def test_optunas_samplers_search_for_a_pareto_set(name: str) -> None:
    """Beyond the ten evaluations of a side that they choose by chance."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, study = make_space(), optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = sampler = make_sampler(name, space, study, plan_of, 0)
    told = []
    for _ in range(26):
        trial = study.ask()
        config: Any = space.suggest(trial)
        space.take(config)
        told.append(config)
        study.tell(trial, [efficiency_of(config), float(config.columns)])
    assert len(set(told)) == 26 and len(study.best_trials) > 1
    shadows = sampler._shadows.values()  # type: ignore[attr-defined]
    assert max(len(shadow.get_trials(states=(TrialState.COMPLETE,))) for shadow in shadows) > 12


def test_kgens_own_finds_more_of_a_pareto_set_than_chance() -> None:
    whole = traded("random", 0, 200)
    own = [traded("kgen", seed, 24) / whole for seed in range(2)]
    chance = [traded("random", seed, 24) / whole for seed in range(3)]
    assert min(own) > max(chance) + 0.1, (own, chance)


def test_equal_seeds_propose_alike_for_several_objectives() -> None:
    assert traded("kgen", 1, 12) == traded("kgen", 1, 12)


def test_an_expected_gain_is_told_once_the_forest_is_to_be_believed_and_falls() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = synthetic_space(PROBLEM, 200)
    space, study = (
        recorded_space(config_from_json, list(recorded.evaluations)),
        optuna.create_study(direction="maximize"),
    )
    study.sampler = sampler = make_sampler("kgen", space, study, plan_of, 0)
    gains: list[float | None] = []
    while len(space):
        trial = study.ask()
        config = space.suggest(trial)
        space.take(config)
        evaluation = recorded.evaluations[config]
        passed = evaluation.outcome is Outcome.OK
        study.tell(
            trial, evaluation.efficiency if passed else None, TrialState.COMPLETE if passed else TrialState.PRUNED
        )
        gains.append(sampler.expected_gain)
    assert gains[:47] == [None] * 47 and gains[-1] is None, "and when nothing is left there is nothing to say"
    told = [gain for gain in gains if gain is not None]
    assert all(0 <= gain < 1 for gain in told) and len(told) > 100
    assert median(told[-40:]) < max(told) / 4


def test_an_expected_gain_is_the_integral_that_it_is_said_to_be() -> None:
    """Of one config whose log2 is expected 0.1 above the best's, give or take 0.2."""
    space, study = real_space(), optuna.create_study(direction="maximize")
    sampler: Any = make_sampler("kgen", space, study, plan_of, 0)
    config, *others = space.left
    for other in others:
        space.take(other)
    sampler._evaluated = {other: np.array([5.0 + number]) for number, other in enumerate(others[:50])}
    sampler._expected = {config: (5.1, 0.2)}
    drawn = np.random.default_rng(0).normal(5.1, 0.2, 1_000_000)
    assert sampler.expected_gain == pytest.approx(np.maximum(0, 1 - 2 ** (drawn - 5.0)).mean(), rel=0.01)
