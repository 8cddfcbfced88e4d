from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from kgen.search.objectives import BY_EFFICIENCY, Objective, Objectives

from kgen import tuned
from kgen.blocks import family
from kgen.budget import Budget
from kgen.cli import network as command
from kgen.devices import find_device
from kgen.machine import attainable_us, ideal_us
from kgen.networks import Network
from kgen.networks.account import account
from kgen.render import template_digest
from kgen.tuned import TunedEntry

H200 = find_device("h200")
NETWORK = Network("tiny", (16, 32), (2, 1), expansion=2, classes=10, patch=2)
PROBLEMS = list(dict.fromkeys(layer.problem for layer in NETWORK.layers(2, 8, 8)))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))


def save(problem: Any, folder: Path, modelled_us: float, digest: str | None = None) -> None:
    config = family(problem.family).default_config(problem, H200)
    entry = TunedEntry(
        problem=problem,
        config=config,
        measured=None,
        modelled_us=modelled_us,
        intensity=1.0,
        attainable_efficiency=0.5,
        error=1e-4,
        trials=1,
        seconds=1.0,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        template_digest=digest or template_digest(config.template),
    )
    tuned.save(entry, H200, folder)


def test_layers_of_one_problem_share_a_row(tmp_path: Path) -> None:
    for i, problem in enumerate(PROBLEMS):
        save(problem, tmp_path, 10.0 * (i + 1))
    found = account(NETWORK, 2, 8, H200, tmp_path)
    assert [row.first for row in found.rows] == [
        "stem",
        "stages.0.blocks.0",
        "stages.1.downsample",
        "stages.1.blocks.0",
        "head",
    ]
    assert [row.count for row in found.rows] == [1, 2, 1, 1, 1]
    assert [row.total_us for row in found.rows] == [10.0, 40.0, 30.0, 40.0, 50.0] and found.total_us == 170.0
    block = found.rows[1]
    assert block.ideal_us == ideal_us(block.problem.flops, H200) and block.efficiency == block.ideal_us / 20.0
    program = family("convfirst").plan(block.problem, family("convfirst").default_config(block.problem, H200), H200)
    assert block.attainable_us == attainable_us(program) and not block.measured
    assert found.ideal_us == pytest.approx(sum(row.count * row.ideal_us for row in found.rows))


def test_what_is_not_tuned_or_stale_has_no_time(tmp_path: Path) -> None:
    save(PROBLEMS[0], tmp_path, 10.0)
    save(PROBLEMS[1], tmp_path, 10.0, digest="0" * 16)
    found = account(NETWORK, 2, 8, H200, tmp_path)
    assert [row.us for row in found.rows] == [10.0, None, None, None, None]
    assert found.total_us is None and found.rows[1].efficiency is None


def run(out: Path, as_json: bool = False, budget: Budget | None = None, objectives: Objectives = BY_EFFICIENCY) -> bool:
    search: dict[str, Any] = {
        "trials": 3,
        "objectives": objectives,
        "out": out,
        "storage": None,
        "sampler": "tpe",
        "seed": 5,
    }
    return command.tune_network(NETWORK, 2, 8, H200, budget, 7.0, others=[H200], **search, as_json=as_json)


def open_benches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Those that are opened from now on, of which none starts a process."""
    opened: list[object] = []

    @contextmanager
    def open_bench(device: Any, others: Any, objectives: Any) -> Iterator[object]:
        opened.append(object())
        yield opened[-1]

    monkeypatch.setattr("kgen.search.open_bench", open_bench)
    return opened


def test_a_network_is_tuned_problem_by_problem_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    benches = open_benches(monkeypatch)

    def find(problem: Any, device: Any, *, out: Path, progress: Any, bench: object, **rest: Any) -> None:
        assert [bench] == benches, "one serves all problems, since it takes seconds to start"
        assert rest.pop("budget").seconds == 7.0, "each has as long as a problem alone has"
        study = {"storage": None, "sampler": "tpe", "seed": 5, "objectives": BY_EFFICIENCY}
        assert rest == {"others": [H200], "trials": 3, "until": None, **study}
        assert device is H200
        asked.append(problem)
        save(problem, out, 10.0)

    monkeypatch.setattr("kgen.search.find", find)
    save(PROBLEMS[2], tmp_path, 7.0)
    assert run(tmp_path)
    assert asked == [one for one in PROBLEMS if one != PROBLEMS[2]]
    shown = capsys.readouterr()
    assert "1 of 5 problems are tuned already" in shown.err
    assert "57.0" in shown.out and "modelled" in shown.out and "not tuned" not in shown.out
    asked.clear()
    assert run(tmp_path, as_json=True) and not asked
    assert len(benches) == 1, "where nothing is to be tuned, none is opened"


def test_what_is_tuned_for_something_else_is_tuned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    open_benches(monkeypatch)
    monkeypatch.setattr("kgen.search.find", lambda problem, *_, **__: asked.append(problem))
    for problem in PROBLEMS:
        save(problem, tmp_path, 10.0)
    assert run(tmp_path) and not asked
    assert run(tmp_path, objectives=(Objective.ERROR,)) and asked == PROBLEMS


def test_problems_share_the_budget_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of what those before it left; the first one ends early, and the second one takes too long."""
    now_s, took_s = 100.0, iter([1.0, 40.0, 5.0, 5.0, 20.0])
    given: list[float] = []

    def find(problem: Any, device: Any, *, budget: Budget, out: Path, **_: Any) -> None:
        nonlocal now_s
        given.append(budget.seconds)
        now_s += next(took_s)
        save(problem, out, 10.0)

    open_benches(monkeypatch)
    monkeypatch.setattr("kgen.search.find", find)
    monkeypatch.setattr("kgen.budget.time.monotonic", lambda: now_s)
    assert run(tmp_path, budget=Budget(50.0, start_s=98.0))
    assert given == [48 / 5, 47 / 4, 7 / 3, 2 / 2, 0.0]


def test_an_interrupted_network_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen.search import SearchInterrupted

    def find(problem: Any, *_: Any, **__: Any) -> None:
        if problem == PROBLEMS[1]:
            raise SearchInterrupted(None)
        save(problem, tmp_path, 10.0)

    open_benches(monkeypatch)
    monkeypatch.setattr("kgen.search.find", find)
    assert not run(tmp_path)
    assert account(NETWORK, 2, 8, H200, tmp_path).rows[0].us == 10.0
