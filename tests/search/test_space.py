"""The search space: configs and trial parameters map to each other, and infeasible proposals are repaired."""

from __future__ import annotations

import random
from functools import partial

import optuna
import pytest
from kgen.search.space import SearchSpace
from search_fakes import CHOICES, DEFAULT, FakeConfig, SplitConfig, make_space

from kgen.blocks.convfirst import choices, config_from_json, default_config, favourites, plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device


def test_params_round_trip_through_a_trial() -> None:
    space, study = make_space(), optuna.create_study()
    for config in (DEFAULT, FakeConfig("fused", 3, 5, 64)):
        params = space.params(config)
        assert params is not None
        assert params["boundary"] == config.boundary
        assert set(params) == {"boundary", *(f"{config.boundary}.{name}" for name in CHOICES[config.boundary])}
        study.enqueue_trial(params)
        assert space.suggest(study.ask()) == config


def test_a_config_outside_the_choices_has_no_params() -> None:
    assert make_space().params(FakeConfig("fused", 9, 1, 16)) is None
    assert make_space().params(FakeConfig("a side that the device cannot run", 1, 1, 16)) is None


def test_nearest_changes_one_field_where_that_is_enough() -> None:
    broken = FakeConfig("fused", 8, 3, 16)
    repaired = make_space().nearest(broken, [DEFAULT], lambda config: True)
    assert repaired is not None
    assert repaired.rows * repaired.columns <= 16  # type: ignore[attr-defined]
    before, after = broken.to_json(), repaired.to_json()
    assert sum(before[name] != after[name] for name in before) == 1


def test_nearest_walks_to_an_anchor_and_skips_known_configs() -> None:
    broken, anchor = SplitConfig("split", 8, 8, 64, 32), SplitConfig("split", 1, 1, 16, 16)
    space = make_space()
    one_away = {space.nearest(broken, [], lambda config: True) for _ in range(40)}
    repaired = space.nearest(broken, [anchor], lambda config: config.rows != 8 and config.columns != 8)  # type: ignore[attr-defined]
    assert repaired is not None
    assert repaired not in one_away
    assert space.feasible(repaired)
    assert make_space().nearest(broken, [anchor], lambda config: False) is None
    far = space.nearest(broken, [FakeConfig("fused", 1, 1, 16)], lambda config: config.rows < 8 and config.columns < 8)  # type: ignore[attr-defined]
    assert far is None, "an anchor of the other side has other fields"


def test_neighbours_are_feasible_new_and_close() -> None:
    space, seen = make_space(3), {DEFAULT}
    for _ in range(30):
        other = space.neighbour(DEFAULT, lambda config: config not in seen)
        assert other is not None and space.feasible(other) and other not in seen
        assert 1 <= sum(DEFAULT.to_json()[name] != other.to_json()[name] for name in CHOICES["split"]) <= 3
        seen.add(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels, size", [(64, 14), (512, 7)])
def test_convfirst_proposals_can_be_repaired(channels: int, size: int) -> None:
    problem, device = ConvFirst(2, size, size, channels), find_device("h200")
    seeds = [default_config(problem, device), *favourites(problem, device, 4)]
    values = choices(problem, device)
    space = SearchSpace(config_from_json, values, partial(_plan, problem, device), 0)
    draw, repaired = random.Random(0), 0
    side = seeds[1].boundary
    for _ in range(20):
        config = config_from_json({"boundary": side} | {name: draw.choice(of) for name, of in values[side].items()})
        other = config if space.feasible(config) else space.nearest(config, seeds, lambda config: True)
        repaired += other is not None and space.feasible(other)
    assert repaired == 20


def _plan(problem, device, config):  # type: ignore[no-untyped-def]
    return plan(problem, config, device)
