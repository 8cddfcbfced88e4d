"""Fitting the performance model to recorded spaces: known constants are found again, and ranks are judged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "search"))

from model_quality import Measured, fit, fit_elsewhere, judge, shape_of
from synthetic import DEVICE, synthetic_space

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.model import constants_of

PROBLEM = ConvFirst(2, 7, 7, 64)
SPACE = synthetic_space(PROBLEM, 60)
OWN = constants_of(DEVICE)


def with_latencies_of(constants: object) -> Measured:
    measured = Measured.of(SPACE)
    return replace(measured, latencies_us=measured.predicted_us(constants))  # type: ignore[arg-type]


def test_constants_that_made_the_latencies_are_found_again() -> None:
    true = replace(OWN, launch_us=2.5, step_clocks=700.0)
    found = fit([with_latencies_of(true)])
    assert found.launch_us == pytest.approx(2.5, rel=0.05) and found.step_clocks == pytest.approx(700, rel=0.1)
    assert found.spill_bytes_to_double == OWN.spill_bytes_to_double


def test_a_perfect_model_has_no_regret_and_a_reversed_one_all_of_it() -> None:
    perfect = with_latencies_of(OWN)
    assert judge(perfect, OWN) == {
        "rank_correlation": pytest.approx(1.0),
        "regret_of_top_1": 0.0,
        "regret_of_top_8": 0.0,
        "regret_of_top_32": 0.0,
    }
    reversed_ = judge(replace(perfect, latencies_us=1 / perfect.latencies_us), OWN)
    assert reversed_["rank_correlation"] == pytest.approx(-1.0)
    assert reversed_["regret_of_top_1"] > reversed_["regret_of_top_8"] > reversed_["regret_of_top_32"] > 0


def test_what_a_search_would_not_measure_is_left_out() -> None:
    measured = Measured.of(SPACE)
    refused = sum(bool(one.spill_bytes) or one.efficiency is None for one in SPACE.evaluations.values())
    assert len(measured.programs) == len(measured.latencies_us) == len(SPACE.evaluations) - refused
    few = measured.fastest(10)
    assert len(few.programs) == 10 and few.latencies_us.min() == measured.latencies_us.min()
    assert (np.diff(few.latencies_us) >= 0).all()


def test_a_shape_is_judged_by_constants_of_the_others() -> None:
    batch = replace(SPACE, header=replace(SPACE.header, problem=replace(PROBLEM, batch=1)))
    other = replace(SPACE, header=replace(SPACE.header, problem=replace(PROBLEM, activation="relu")))
    assert shape_of(SPACE) == shape_of(batch) != shape_of(other)
    with pytest.raises(SystemExit, match="two shapes"):
        fit_elsewhere([SPACE, batch])
    fitted = fit_elsewhere([SPACE, batch, other])
    assert fitted[shape_of(SPACE)] == fit([Measured.of(other)])
    assert fitted[shape_of(other)] == fit([Measured.of(SPACE), Measured.of(batch)])
