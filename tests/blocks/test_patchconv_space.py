"""The patchconv search space: fields and values, configs out of JSON, draws and favourites."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from patchconv_programs import PATCHCONV, PATCHCONV_EXAMPLES

from kgen.blocks.activations import Sigmoid
from kgen.blocks.patchconv import Problem, choices, config_from_json, default_config, draw, favourites, plan, relax
from kgen.blocks.patchconv.config import SIDES
from kgen.devices import find_device, known_devices
from kgen.errors import ProblemError

H200 = find_device("h200")
RTX3090 = find_device("rtx3090")
LAYER = Problem(8, 28, 28, 96, 192, activation="gelu")
IMAGE = Problem(8, 64, 64, 3, 96, 4, pixels="uint8", order="nchw")
LINEAR = Problem(8, 14, 14, 768, 768, 1, residual=True)
PROBLEMS = (LAYER, IMAGE, LINEAR, Problem(1, 1, 1, 1, 16, 1), Problem(1, 4, 4, 4096, 4096, 4))


@pytest.mark.parametrize("device", [H200, RTX3090], ids=lambda device: device.name)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_field_has_values_of_its_kind(problem: Problem, device: Any) -> None:
    sides = choices(problem, device)
    assert list(sides) == (["portable", "wgmma"] if device is H200 and not problem.image else ["portable"])
    for side, values in sides.items():
        assert {"boundary", *values} == {field.name for field in fields(SIDES[side])}
        assert set(values.pop("sigmoid")) <= set(get_args(Sigmoid))
        assert values.pop("deferred", (False, True)) == (False, True)
        for name, options in values.items():
            assert options and list(options) == sorted(set(options)), name
            assert all(type(value) is int and value >= 1 for value in options), name
    values, filled, blocks = sides["portable"], -(-problem.inputs // 16) * 16, problem.outputs // 16
    assert all(filled % chunk == 0 and chunk % 16 == 0 for chunk in values["chunk"])
    assert all(blocks % n == 0 for name in ("warps_n", "out_split") for n in values[name])
    assert all(pixels % 16 == 0 for pixels in values["pixels"])


def test_choices_by_hand() -> None:
    values = choices(IMAGE, H200)["portable"]
    assert values["chunk"] == (16, 48)
    assert values["warps_n"] == values["out_split"] == (1, 2, 3, 6)
    assert values["sigmoid"] == ("exp2",), "identity has no use for another"
    assert set(choices(LAYER, H200)["portable"]["sigmoid"]) == {"exp2", "tanh"}


@pytest.mark.parametrize("config", [PATCHCONV, *(one.config for one in PATCHCONV_EXAMPLES.values())], ids=str)
def test_a_config_comes_back_from_its_json(config: Any) -> None:
    assert config_from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"boundary": "fused"},
            "a patchconv config's boundary must be one of portable, wgmma, but got boundary='fused'",
        ),
        ({"boundary": ...}, "boundary must be one of portable, wgmma, but boundary is missing"),
        ({"chunk": ..., "stages": ...}, "each field of its side, portable, but chunk is missing, stages is missing"),
        ({"tile_h": 3}, "a patchconv config must name each field of its side, portable, but tile_h is unknown"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], sentence: str) -> None:
    values = {name: value for name, value in (PATCHCONV.to_json() | change).items() if value is not ...}
    with pytest.raises(ProblemError, match=sentence) as caught:
        config_from_json(values)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("device", known_devices(), ids=lambda device: device.name)
@pytest.mark.parametrize("problem", [LAYER, IMAGE, LINEAR], ids=["layer", "image", "linear"])
def test_draws_are_feasible_and_varied(problem: Problem, device: Any) -> None:
    rng = random.Random(0)
    drawn = [config for config in (draw(problem, device, rng) for _ in range(200)) if config is not None]
    assert len(drawn) > 80
    for config in drawn:
        plan(problem, config, device)
    assert {config.boundary for config in drawn} == set(choices(problem, device))
    values = choices(problem, device)["portable"]
    drawn = [config for config in drawn if config.boundary == "portable"]
    for name in ("pixels", "warps_m", "warps_n", "chunk", "stages", "out_split", "sigmoid", "ctas_per_sm"):
        found = {getattr(config, name) for config in drawn}
        assert found <= set(values[name])
        assert len(found) > 1 or len(values[name]) == 1, name


def test_draws_are_repeatable() -> None:
    first, again = ([draw(LAYER, H200, rng) for _ in range(20)] for rng in (random.Random(3), random.Random(3)))
    assert first == again
    assert len(set(first)) > 10


def test_relaxing_takes_the_first_thriftier_config_that_fits() -> None:
    config = default_config(LAYER, H200)
    assert relax(LAYER, config, H200) == config
    deep = replace(config, stages=64, chunk=64)
    assert relax(LAYER, deep, H200) == replace(deep, stages=2)
    assert relax(LAYER, replace(deep, ctas_per_sm=2, stages=3), RTX3090) == replace(deep, ctas_per_sm=2, stages=3)
    assert relax(LAYER, replace(config, pixels=40), H200) is None


@pytest.mark.parametrize("problem", [LAYER, IMAGE, LINEAR], ids=["layer", "image", "linear"])
def test_favourites_are_feasible_and_deterministic(problem: Problem) -> None:
    found = favourites(problem, H200, 5)
    assert found == favourites(problem, H200, 5)
    assert len(found) == len(set(found)) == 5
    for config in found:
        plan(problem, config, H200)
