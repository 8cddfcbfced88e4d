"""Progress: time left, a line for pipes, a bar for terminals."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from kgen.search import progress
from kgen.search.progress import Snapshot, one_of, terminal_progress

SNAPSHOT = Snapshot(
    done=10,
    trials=30,
    ahead=4,
    best_us=12.34,
    best_efficiency=0.25,
    failures={"wrong_answer": 1, "infeasible:area": 7, "infeasible:spills": 2},
    elapsed_s=20.0,
    budget_s=600.0,
    measured=True,
    new=10,
)


def test_time_left_follows_the_pace_and_the_limit() -> None:
    assert SNAPSHOT.left_s == pytest.approx(40.0)
    assert replace(SNAPSHOT, budget_s=25.0).left_s == pytest.approx(5.0)
    assert replace(SNAPSHOT, new=0).left_s == pytest.approx(580.0)
    assert replace(SNAPSHOT, elapsed_s=700.0).left_s == 0.0


def test_the_line_holds_everything() -> None:
    assert str(SNAPSHOT) == (
        "10/30 trials, 0:40 left, best 12.3 us, efficiency 25.0%, 9 infeasible, 1 wrong_answer, 4 ahead"
    )
    assert "best 12.3 us modelled," in str(replace(SNAPSHOT, measured=False))
    assert str(replace(SNAPSHOT, budget_s=float("inf"), new=0)).startswith("10/30 trials, -:-- left, best")
    assert "best" not in str(replace(SNAPSHOT, best_us=None))


def test_one_of_several_searches_says_so() -> None:
    told: list[str] = []
    one_of(9, 3, lambda snapshot: told.append(str(snapshot)))(SNAPSHOT)
    assert told == [f"4 of 9: {SNAPSHOT}"]


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    stream = io.StringIO()
    with terminal_progress(stream) as report:
        for second in range(12):
            now_s[0] = float(second)
            report(SNAPSHOT)
    assert stream.getvalue() == f"{SNAPSHOT}\n" * 2


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    with terminal_progress(stream) as report:
        report(SNAPSHOT)
    assert "10/30 trials, 0:40 left, best 12.3 us" in stream.getvalue()
