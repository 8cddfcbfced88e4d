"""The classifier search space: fields and values, configs out of JSON, draws and favourites."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import pytest
from classifier_programs import CLASSIFIER, CLASSIFIER_EXAMPLES

from kgen.blocks.classifier import Problem, choices, config_from_json, default_config, draw, favourites, plan, relax
from kgen.blocks.classifier.config import ClassifierConfig
from kgen.devices import find_device, known_devices
from kgen.errors import ProblemError

H200 = find_device("h200")
RTX3090 = find_device("rtx3090")
LARGE = Problem(256, 7, 7, 768)
SMALL = Problem(1, 7, 7, 512, 10)
PROBLEMS = (LARGE, SMALL, Problem(3, 1, 1, 16, 1), Problem(20, 2, 2, 1008, 65536))


@pytest.mark.parametrize("device", [H200, RTX3090], ids=lambda device: device.name)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_field_has_values_of_its_kind(problem: Problem, device: Any) -> None:
    (side, values), *others = choices(problem, device).items()
    assert not others and side == "portable"
    assert {"boundary", *values} == {field.name for field in fields(ClassifierConfig)}
    for name, options in values.items():
        assert options and list(options) == sorted(set(options)), name
        assert all(type(value) is int and value >= 1 for value in options), name
    assert all(problem.channels // 16 % n == 0 for n in values["warps_k"])
    assert all(value % 16 == 0 for name in ("slice", "chunk") for value in values[name])
    assert max(values["images"]) <= 16 and max(values["parts"]) <= problem.pixels


def test_choices_by_hand() -> None:
    values = choices(SMALL, H200)["portable"]
    assert (values["images"], values["slice"]) == ((1,), (16,)), "one image of one block of classes"
    assert values["warps_k"] == (1, 2, 4, 8)
    assert values["parts"] == (1, 2, 4, 7, 8, 16)
    assert choices(LARGE, H200)["portable"]["images"] == (1, 2, 4, 8, 16)
    assert choices(replace(SMALL, height=1, width=3), H200)["portable"]["parts"] == (1, 2)


@pytest.mark.parametrize("config", [CLASSIFIER, *(one.config for one in CLASSIFIER_EXAMPLES.values())], ids=str)
def test_a_config_comes_back_from_its_json(config: Any) -> None:
    assert config_from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"boundary": "fused"}, "a classifier config's boundary must be one of portable, but got boundary='fused'"),
        ({"boundary": ...}, "boundary must be one of portable, but boundary is missing"),
        ({"chunk": ..., "stages": ...}, "each field of its side, portable, but chunk is missing, stages is missing"),
        ({"pixels": 3}, "a classifier config must name each field of its side, portable, but pixels is unknown"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], sentence: str) -> None:
    values = {name: value for name, value in (CLASSIFIER.to_json() | change).items() if value is not ...}
    with pytest.raises(ProblemError, match=sentence) as caught:
        config_from_json(values)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("device", known_devices(), ids=lambda device: device.name)
@pytest.mark.parametrize("problem", [LARGE, SMALL], ids=["large", "small"])
def test_draws_are_feasible_and_varied(problem: Problem, device: Any) -> None:
    rng = random.Random(0)
    drawn = [config for config in (draw(problem, device, rng) for _ in range(400)) if config is not None]
    assert len(drawn) > 60
    for config in drawn:
        plan(problem, config, device)
    values = choices(problem, device)["portable"]
    for name in ("images", "slice", "warps_k", "parts"):
        found = {getattr(config, name) for config in drawn}
        assert found <= set(values[name])
        assert len(found) > 1 or len(values[name]) == 1, name


def test_draws_are_repeatable() -> None:
    first, again = ([draw(LARGE, H200, rng) for _ in range(40)] for rng in (random.Random(3), random.Random(3)))
    assert first == again
    assert len(set(first)) > 10


def test_relaxing_takes_the_first_thriftier_config_that_fits() -> None:
    config = default_config(LARGE, H200)
    assert relax(LARGE, config, H200) == config
    deep = replace(config, stages=64, parts=4)
    assert relax(LARGE, deep, H200) == replace(deep, stages=2)
    wide = replace(config, images=16, parts=16)
    assert relax(LARGE, wide, H200) == replace(wide, parts=1)
    assert relax(LARGE, replace(config, images=17), H200) is None


@pytest.mark.parametrize("problem", [LARGE, SMALL], ids=["large", "small"])
def test_favourites_are_feasible_and_deterministic(problem: Problem) -> None:
    found = favourites(problem, H200, 5)
    assert found == favourites(problem, H200, 5)
    assert len(found) == len(set(found)) == 5
    for config in found:
        plan(problem, config, H200)
