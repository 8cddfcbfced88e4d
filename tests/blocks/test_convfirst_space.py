"""The convfirst search space by side: each side's fields and values, configs out of JSON, draws and favourites."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from cluster_programs import CLUSTER
from convfirst_programs import FUSED, SPLIT
from wgmma_programs import WGMMA_FUSED, WGMMA_LAYERS

from kgen.blocks.convfirst import Problem, choices, config_from_json, draw, favourites, plan, portable
from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.portable.space import RELAXATIONS
from kgen.devices import find_device
from kgen.errors import InfeasibleError, ProblemError

H200 = find_device("h200")
PROBLEM = Problem(batch=2, height=8, width=16, channels=96, expansion=1.5)


def test_each_side_has_the_fields_that_its_kernels_need() -> None:
    found = choices(replace(PROBLEM, channels=128), H200)
    bases = (FUSED, SPLIT, replace(SPLIT, boundary="layers"), CLUSTER, WGMMA_FUSED, WGMMA_LAYERS)
    assert list(found) == [base.boundary for base in bases]
    for base in bases:
        used = {name for name, value in base.to_json().items() if value is not None}
        assert {"boundary", *found[base.boundary]} == used
        assert all(found[base.boundary].values())


def test_a_side_has_no_values_that_its_rules_forbid() -> None:
    found = choices(PROBLEM, H200)
    fused, split, layers = (found[side] for side in ("fused", "split", "layers"))
    assert fused["hidden_split"] == (1,) and 3 in split["hidden_split"]
    assert (layers["hidden_chunk"], layers["weights"], layers["conv_output"]) == ((16,), ("streamed",), ("shared",))
    # 96 channels, 144 hidden: the chunk of "layers" divides both.
    assert split["project_chunk"] == (16,) and layers["project_chunk"] == (16,)
    assert "wgmma_layers" not in found, "96 is no multiple of 64"
    # Chunks divide 144 and leave two at least; a slot for each of 2 x 9 or 2 x 3 keeps the weights.
    assert found["wgmma_fused"]["hidden_chunk"] == (16, 48)
    assert {6, 18} < set(found["wgmma_fused"]["weight_slots"])
    wide = choices(replace(PROBLEM, expansion=4), H200)
    assert wide["split"]["project_chunk"] == (16, 32, 64, 96, 128, 192)
    assert wide["layers"]["project_chunk"] == (16, 32, 96)


@pytest.mark.parametrize(
    "config", [FUSED, SPLIT, CLUSTER, WGMMA_FUSED, WGMMA_LAYERS], ids=lambda config: config.boundary
)
def test_a_config_comes_back_from_its_json(config: Any) -> None:
    values = config.to_json()
    assert config_from_json(values) == config
    assert config_from_json({name: value for name, value in values.items() if value is not None}) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"boundary": "both"},
            "boundary must be one of fused, split, layers, cluster, wgmma_fused, wgmma_layers, but got boundary='both'",
        ),
        ({"boundary": ["fused"]}, r"boundary must be one of .*, but got boundary=\['fused'\]"),
        ({"boundary": ...}, "boundary must be one of .*, but boundary is missing"),
        ({"tile_w": ..., "stages": ...}, "each field of its side, fused, but tile_w is missing, stages is missing"),
        ({"tile_d": 3}, "tile_d is unknown"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], sentence: str) -> None:
    values = {name: value for name, value in (FUSED.to_json() | change).items() if value is not ...}
    with pytest.raises(ProblemError, match=sentence) as caught:
        config_from_json(values)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("config", [CLUSTER, WGMMA_FUSED, WGMMA_LAYERS], ids=lambda config: config.boundary)
def test_a_field_of_another_side_is_unknown(config: Any) -> None:
    values = config.to_json()
    missing = list(values)[1]
    with pytest.raises(ProblemError, match=f"side, {config.boundary}, but tile_w is unknown, {missing} is missing"):
        config_from_json({name: value for name, value in values.items() if name != missing} | {"tile_w": 8})


def test_draws_reach_every_side_and_are_feasible() -> None:
    rng = random.Random(0)
    drawn = [config for config in (draw(PROBLEM, H200, rng) for _ in range(200)) if config is not None]
    assert len(drawn) > 80
    sides = Counter(config.boundary for config in drawn)
    assert set(sides) == set(choices(PROBLEM, H200)) and min(sides.values()) > 10
    for config in drawn:
        plan(PROBLEM, config, H200)


@pytest.mark.parametrize("problem", [PROBLEM, Problem(1, 7, 7, 512), Problem(64, 14, 14, 256)], ids=str)
def test_what_is_too_large_is_relaxed_step_by_step(problem: Problem) -> None:
    """As if every step were checked as a whole."""

    def stepwise(config: PortableConfig) -> PortableConfig | None:
        for change in ({}, *RELAXATIONS):
            config = replace(config, **{name: value for name, value in change.items() if getattr(config, name)})
            try:
                plan(problem, config, H200)
            except InfeasibleError:
                continue
            return config
        return None

    rng, ends = random.Random(0), Counter[str]()
    for side, values in portable.choices(problem).items():
        for _ in range(150):
            drawn = replace(portable.draw(problem, side, values, rng), warps_n=rng.choice(values["warps_n"]))
            config = portable.relax(problem, drawn, H200)
            assert config == stepwise(drawn)
            ends["none" if config is None else "drawn" if config == drawn else "relaxed"] += 1
    assert set(ends) == {"none", "drawn", "relaxed"}


def test_favourites_have_a_share_for_each_side() -> None:
    found = favourites(PROBLEM, H200, 7)
    assert len(found) == len(set(found)) == 7
    assert max(Counter(config.boundary for config in found).values()) == 2  # a quarter of seven, rounded up
