"""The benchmark of searches: what it counts, and each contender on a synthetic space. No figure of it is published."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kernel_tuner")

import kernel_tuner_replay
import search_quality
from kgen.search.recorded import Recorder
from search_quality import CONTENDERS, compare, evaluations_until, judge, summary
from synthetic import synthetic_space

from kgen.blocks.convfirst.problem import ConvFirst

SPACE = synthetic_space(ConvFirst(2, 7, 7, 64), 60)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recorded") / "a.jsonl.gz"
    recorder = Recorder(file, SPACE.header)
    for config, evaluation in SPACE.evaluations.items():
        recorder.add(config, evaluation)
    return file


def test_evaluations_are_counted_to_the_first_that_is_near_enough() -> None:
    efficiencies = [None, 0.5, 0.95, 0.99, 1.0]
    assert evaluations_until(efficiencies, 1.0, 0.05) == 4  # 0.95 is 5.3% slower
    assert evaluations_until(efficiencies, 1.0, 0.0) == 5
    assert evaluations_until(efficiencies[:3], 1.0, 0.01) is None
    assert summary([3, None, 5], trials=100) == {"median": 5, "share_of_seeds": 2 / 3}


@pytest.mark.parametrize("contender", list(CONTENDERS))
def test_every_contender_evaluates_recorded_configs(contender: str, path: Path) -> None:
    recorded = {one.efficiency for one in SPACE.evaluations.values()}
    efficiencies = CONTENDERS[contender](SPACE, None, 20, 1)
    assert 5 <= len(efficiencies) <= 20 and {one for one in efficiencies if one is not None} <= recorded
    counts = judge(path, contender, None, 1, trials=20)
    assert counts["within_5_percent"] is None or 1 <= counts["within_5_percent"] <= 20


def test_kernel_tuner_sees_the_whole_space() -> None:
    size = len(SPACE.evaluations)
    efficiencies = kernel_tuner_replay.evaluated("bayes_opt", SPACE, 10 * size, 0)
    assert len(efficiencies) == size
    assert max(one or 0.0 for one in efficiencies) == SPACE.best.efficiency


def test_spaces_are_compared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: CONTENDERS[name] for name in ("kgen", "optuna random", "kernel_tuner mls")}
    monkeypatch.setattr(search_quality, "CONTENDERS", few)
    with ThreadPoolExecutor(1) as pool:
        space: Any = search_quality.judge_space(path, None, 2, pool)  # type: ignore[arg-type]
    compared = compare([space, space])
    assert compared["rivals"] == ["optuna random", "kernel_tuner mls"] and compared["spaces"] == 2
    ours, *others = (space["contenders"][one]["within_5_percent"]["median"] for one in few)
    assert compared["within_5_percent"]["median_of_medians"]["kgen"] == ours
    assert compared["within_5_percent"]["spaces_better_than_every_rival"] == 2 * (ours < min(others))
