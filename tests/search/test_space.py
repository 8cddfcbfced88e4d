"""The search space: listed configs are legal and new, and map to trial parameters and back."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from kgen.search.samplers import make_sampler
from kgen.search.space import Extent, Space, legal_space, recorded_space
from search_fakes import CHOICES, DEFAULT, FakeConfig, SplitConfig, config_from_json, feasible, make_space

from kgen.blocks.convfirst import choices, default_config, neighbours, plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.errors import InfeasibleError

H200 = find_device("h200")
PROBLEM = ConvFirst(1, 7, 7, 16)


def test_params_round_trip_through_a_trial() -> None:
    space, study = make_space(), optuna.create_study()
    for config in (DEFAULT, FakeConfig("fused", 3, 5, 64)):
        params = space.params(config)
        assert params is not None
        assert params["boundary"] == config.boundary
        assert set(params) == {"boundary", *(f"{config.boundary}.{name}" for name in CHOICES[config.boundary])}
        study.enqueue_trial(params)
        assert space.suggest(study.ask()) == config


def test_a_config_outside_the_choices_has_no_params_and_is_not_listed() -> None:
    space = make_space()
    listed = len(space)
    for config in (FakeConfig("fused", 9, 1, 16), FakeConfig("a side that the device cannot run", 1, 1, 16)):
        assert space.params(config) is None
        space.add([config])
    assert len(space) == listed


def test_a_config_is_left_until_it_is_taken() -> None:
    space = make_space()
    before = len(space)
    assert DEFAULT in space and DEFAULT in space.left
    space.take(DEFAULT)
    space.take(DEFAULT)
    space.add([DEFAULT])
    assert DEFAULT not in space and DEFAULT not in space.left and len(space) == before - 1
    space.take(FakeConfig("fused", 8, 8, 16))  # not listed


def test_nearest_is_the_legal_config_that_differs_least() -> None:
    space = make_space()
    assert space.nearest("fused", {"rows": 2, "columns": 3, "chunk": 32}) == FakeConfig("fused", 2, 3, 32)
    near: Any = space.nearest("fused", {"rows": 8, "columns": 3, "chunk": 16})
    assert feasible(near) and near.chunk == 16 and 8 - near.rows + abs(near.columns - 3) == 1
    for _ in range(len(space)):
        found: Any = space.nearest("split", {"rows": 8, "columns": 8, "chunk": 64, "project_chunk": 32})
        if found is None:
            break
        assert isinstance(found, SplitConfig) and found in space
        space.take(found)
    assert {config.boundary for config in space.left} == {"fused"}


def test_a_good_config_brings_its_neighbours_where_a_side_is_sampled() -> None:
    sampled = {"fused": Extent(False, 1e9, 1), "split": Extent(True, 1, 1)}
    near: Any = [FakeConfig("fused", 1, 2, 16), None, FakeConfig("fused", 2, 1, 16)]
    first: Any = FakeConfig("fused", 1, 1, 16)
    space = Space(config_from_json, CHOICES, [first, DEFAULT], sampled, lambda config: near, 0)
    space.grow(DEFAULT)
    space.grow(FakeConfig("a side that the device cannot run", 1, 1, 16))  # type: ignore[arg-type]
    assert len(space) == 2
    space.grow(first)
    assert set(space.left) == {first, DEFAULT, near[0], near[2]}
    assert str(space) == "1 of about 1e+09 fused, all 1 split"


def test_a_config_from_elsewhere_is_listed_or_stands_for_the_nearest() -> None:
    sampled = {"fused": Extent(False, 1e9, 1), "split": Extent(True, 1, 1)}
    near: Any = FakeConfig("fused", 1, 2, 16)
    space = Space(config_from_json, CHOICES, [DEFAULT], sampled, lambda config: [near], 0)  # type: ignore[list-item]
    inside: Any = FakeConfig("fused", 2, 2, 32)
    assert space.admit(inside) == inside and set(space.left) == {DEFAULT, inside, near}
    assert space.admit(FakeConfig("fused", 1, 3, 20)) == near  # type: ignore[arg-type]
    assert space.admit(FakeConfig("fused", 3, 2, 48)) == inside  # type: ignore[arg-type]
    assert space.admit(FakeConfig("unknown", 3, 2, 48)) is None  # type: ignore[arg-type]


def test_every_listed_config_is_legal_and_listed_once() -> None:
    seeds = [default_config(PROBLEM, H200)]
    two = {side: fields for side, fields in choices(PROBLEM, H200).items() if side in ("split", "wgmma_fused")}
    space = legal_space(PROBLEM, H200, two, seeds, 0)
    for config in space.left[::40]:
        plan(PROBLEM, config, H200)
    assert len(set(space.left)) == len(space) and space.left[0] == seeds[0]
    near = {config for config in neighbours(PROBLEM, seeds[0], H200) if config is not None}
    assert len(near & set(space.left)) >= 40
    assert {config.boundary for config in space.left} == set(space.extents) == set(two)
    assert space.extents["wgmma_fused"].whole and not space.extents["split"].whole
    assert legal_space(PROBLEM, H200, two, seeds, 0).left == space.left


def test_a_problem_without_a_legal_config_names_what_left_none() -> None:
    fields = choices(PROBLEM, H200)["wgmma_fused"]
    with pytest.raises(InfeasibleError, match="warpgroups must have a choice"):
        legal_space(PROBLEM, H200, {"wgmma_fused": {**fields, "warpgroups": ()}}, [], 0)
    with pytest.raises(InfeasibleError, match=r"no choice of .*hidden_chunk.* obeys the rule 'hidden_chunk'"):
        legal_space(PROBLEM, H200, {"wgmma_fused": {**fields, "hidden_chunk": (24, 40)}}, [], 0)


def test_a_side_without_a_legal_config_stays_a_choice_of_trials() -> None:
    fields = choices(PROBLEM, H200)
    sides = {"wgmma_fused": fields["wgmma_fused"], "split": {**fields["split"], "hidden_split": (3,)}}
    space = legal_space(PROBLEM, H200, sides, [], 0)
    assert set(space.extents) == {"wgmma_fused"} and set(space.choices) == set(sides)
    study = optuna.create_study(direction="maximize")
    study.sampler = make_sampler("tpe", space, study, lambda config: plan(PROBLEM, config, H200), 0)  # type: ignore
    for _ in range(12):
        trial = study.ask()
        config = space.suggest(trial)
        space.take(config)
        assert config.boundary == "wgmma_fused"
        study.tell(trial, 1.0)


def test_a_recorded_space_has_its_configs_alone() -> None:
    configs: Any = [DEFAULT, FakeConfig("fused", 3, 5, 64), FakeConfig("fused", 1, 2, 16)]
    space = recorded_space(config_from_json, configs)
    assert space.left == configs
    assert space.choices["fused"] == {"rows": (1, 3), "columns": (2, 5), "chunk": (16, 64)}
    assert [space.suggest(optuna.trial.FixedTrial(space.params(one) or {})) for one in configs] == configs
