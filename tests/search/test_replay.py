"""Replaying a recorded space: what is found, simulated time, and the command."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kgen.search.evaluate import Evaluation
from kgen.search.recorded import Recorded, Recorder
from kgen.search.replay import ReplayBench, replay
from synthetic import DEVICE, synthetic_space

from kgen.blocks.convfirst import plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cli import main
from kgen.errors import ProblemError
from kgen.worker import Outcome

PROBLEM = ConvFirst(2, 7, 7, 64)


@pytest.fixture(scope="module")
def space() -> Recorded:
    return synthetic_space(PROBLEM, 60)


def test_a_whole_space_is_searched_each_config_once(space: Recorded) -> None:
    replayed = replay(space, trials=1000, budget_s=1e9)
    configs = [config for config, _ in replayed.found]
    assert len(configs) == len(set(configs)) and set(configs) <= set(space.evaluations)
    assert len(configs) >= 55  # some configs make the same program
    assert replayed.best is not None and replayed.best[1].efficiency == space.best.efficiency
    assert replayed.until(0.0) == 1 + configs.index(replayed.best[0])
    assert replayed.until(0.05) <= replayed.until(0.01) <= replayed.until(0.0)  # type: ignore[operator]


def test_equal_seeds_give_equal_searches(space: Recorded) -> None:
    first, again, other = (replay(space, trials=20, budget_s=1e9, seed=seed, ahead=0) for seed in (3, 3, 4))
    assert first.found == again.found != other.found


def test_a_search_that_found_nothing_good_says_so(space: Recorded) -> None:
    best = max(space.evaluations, key=lambda config: space.evaluations[config].efficiency or 0.0)
    rest = {config: one for config, one in space.evaluations.items() if config != best}
    replayed = replay(replace(space, evaluations=rest), trials=200, budget_s=1e9)
    assert replace(replayed, recorded=space).until(0.0) is None


def test_compiling_takes_simulated_time_on_every_core(space: Recorded) -> None:
    passed = [config for config, one in space.evaluations.items() if one.outcome is Outcome.OK and not one.spill_bytes]
    evaluations = {
        config: replace(space.evaluations[config], compile_s=compile_s, run_s=0.25)
        for config, compile_s in zip(passed, (2.0, 3.0, 1.0), strict=False)
    }
    bench = ReplayBench(Recorded(replace(space.header, cores=2), evaluations))
    programs = [plan(PROBLEM, config, DEVICE) for config in evaluations]  # type: ignore[arg-type]
    compiled = [bench.start(program) for program in programs]
    assert [one.result() for one in compiled] == [2.0, 3.0, 3.0]  # the third one waits for the first core

    def finish(number: int) -> Evaluation:
        return bench.finish(programs[number], compiled[number], best_efficiency=None, may_spill=False)

    assert bench.first(compiled[1:]) == 0 and bench.first(compiled) == 0 and bench.clock() == 3.0
    bench = ReplayBench(Recorded(replace(space.header, cores=2), evaluations))
    assert finish(0).run_s == 0.25 and bench.clock() == 2.25
    finish(1)
    finish(2)
    assert bench.clock() == 3.5
    assert [config for config, _ in bench.finished] == passed[:3]


def test_the_time_limit_is_simulated(space: Recorded) -> None:
    replayed = replay(space, trials=1000, budget_s=3.0)
    assert 3.0 <= replayed.seconds < 5.0 and 3 <= len(replayed.found) < 40


def test_it_ends_when_little_is_left_to_gain() -> None:
    """And has the best config by then, of a space that is large enough for the forest to tell."""
    space = synthetic_space(PROBLEM, 200, seed=1)
    replayed = replay(space, trials=1000, budget_s=1e9, until=0.01)
    assert 48 <= len(replayed.found) < 120 and replayed.until(0.01) is not None
    assert (
        replayed.ended.endswith("of the best one's time") and "none is expected to save more than 0." in replayed.ended
    )
    assert replay(space, trials=50, budget_s=1e9, until=1e-9).ended == "50 candidates were evaluated"


def test_what_spills_too_much_is_refused_as_in_a_search(space: Recorded) -> None:
    config = next(config for config, one in space.evaluations.items() if one.spill_bytes and one.measured)
    program = plan(PROBLEM, config, DEVICE)  # type: ignore[arg-type]
    bench = ReplayBench(space)
    refused = bench.finish(program, bench.start(program), best_efficiency=None, may_spill=False)
    assert refused.kind == "infeasible:spills" and refused.efficiency is refused.measured is refused.run_s is None
    allowed = bench.finish(program, bench.start(program), best_efficiency=None, may_spill=True)
    assert allowed == space.evaluations[config]


@pytest.fixture
def kgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["kgen", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    return run


def test_the_command_searches_a_file(space: Recorded, tmp_path: Path, kgen: Callable[..., Any]) -> None:
    path = tmp_path / "a.jsonl.gz"
    recorder = Recorder(path, space.header)
    for config, evaluation in space.evaluations.items():
        recorder.add(config, evaluation)
    code, said = kgen("tune", "--replay", str(path), "--trials", "30", "--json")
    found = json.loads(said.out)
    assert code == 0 and found["evaluations"] == 30 and found["configs"] == 60
    assert found["best_us"] >= found["best_recorded_us"] == space.best.latency_us
    code, said = kgen("tune", "--replay", str(path), "--trials", "30")
    assert found["ended"] == "30 candidates were evaluated" and f"the search ended: {found['ended']}\n" in said.out
    assert code == 0 and f"best {found['best_us']:.1f} us of {found['best_recorded_us']:.1f} us recorded" in said.out
    path.write_bytes(path.read_bytes()[:-3])
    code, said = kgen("tune", "--replay", str(path))
    assert code == 2 and said.err.startswith("kgen: a recorded space must end with a whole record")
    code, said = kgen("tune", "--replay", str(tmp_path / "none"))
    assert code == 2 and "must be a readable file" in said.err


def test_the_command_refuses_a_file_of_another_schema(tmp_path: Path, kgen: Callable[..., Any]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"schema_version": 9}\n'))
    code, said = kgen("tune", "--replay", str(path), "--json")
    assert code == 2 and said.out == "" and said.err.count("\n") == 1
    assert f"must have schema_version 1, but {path} has 9; use the kgen that wrote it" in said.err


def test_limits_must_be_positive(space: Recorded) -> None:
    with pytest.raises(ProblemError, match="trials must be greater than 0"):
        replay(space, trials=0, budget_s=1)
