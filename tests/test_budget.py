"""A command's budget: what it is written as, when it ends, and how it is shared."""

from __future__ import annotations

import pytest

from kgen.budget import Budget, parse_seconds
from kgen.errors import ProblemError


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60.0), ("5m", 300.0), ("1h", 3600.0), ("1.5m", 90.0), (".5s", 0.5), ("2.s", 2.0)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["60", "0s", "-1s", "1e3s", "s", "", "1d", "5m ", "5 m", "nans", ".s"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match="--budget must be a time greater than 0 with its unit, but got"):
        parse_seconds(text)


def test_a_share_is_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.budget.time.monotonic", lambda: 130.0)
    assert Budget(60.0, start_s=100.0).end_s == 160.0
    assert Budget(60.0, start_s=100.0).share(3).seconds == 10.0
    assert Budget(20.0, start_s=100.0).share(3).seconds == 0.0
