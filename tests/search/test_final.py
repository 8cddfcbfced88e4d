"""The end of a search: who is in the final, and what is made of what the final finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from kgen.search.evaluate import Evaluation
from kgen.search.final import MOST, WITHIN, finalists, hold_final
from kgen.search.history import History
from search_fakes import FakeConfig, config_from_json, plan

from kgen.errors import InfeasibleError
from kgen.finals import Finalist
from kgen.jobs import Outcome, Result
from kgen.tuned import Measurement

CONFIGS = [FakeConfig("fused", rows, columns, 16) for rows in range(1, 5) for columns in range(1, 5)]


def history_of(times_us: Sequence[float | None]) -> History:
    """Of a search that measured the nth config at the nth time; None failed."""
    history = History(optuna.create_study(), config_from_json, plan)
    for number, time_us in enumerate(times_us):
        if time_us is None:
            evaluation = Evaluation(Outcome.WRONG_ANSWER, "it is wrong", compiled=True)
        else:
            measured = Measurement(time_us, time_us, time_us, 1 / time_us, 1e-4)
            evaluation = Evaluation(
                Outcome.OK, efficiency=1 / time_us, verified=True, compiled=True, measured=measured, predicted_us=7.0
            )
        history.add(number, CONFIGS[number], evaluation)  # type: ignore[arg-type]
    return history


class Bench:
    """Finds the nth config to take ``times_us[n]`` in the final; None is wrong."""

    def __init__(self, times_us: Sequence[float | None]) -> None:
        self.times_us = dict(zip(CONFIGS, times_us, strict=False))

    def compare(self, programs: Sequence[Any]) -> tuple[Finalist, ...]:
        return tuple(Finalist(one, self._result(self.times_us[one.config])) for one in programs)

    def _result(self, time_us: float | None) -> Result:
        if time_us is None:
            return Result(Outcome.WRONG_ANSWER, "it is wrong now")
        measured = Measurement(time_us, time_us, time_us, 1 / time_us, 2e-4, 10, 1980)
        return Result(Outcome.OK, measured=measured, error=2e-4, shots_us=(time_us,) * 10)


def final_of(found_us: Sequence[float | None], final_us: Sequence[float | None], default: int = 0) -> Any:
    return hold_final(history_of(found_us), CONFIGS[default], plan, Bench(final_us))  # type: ignore[arg-type]


def numbers(history: History, default: int) -> list[int]:
    return [one.number for one in finalists(history, CONFIGS[default])]  # type: ignore[arg-type]


def test_finalists_are_those_near_the_best_and_the_default() -> None:
    near, far = 10 * (1 + 0.9 * WITHIN), 10 * (1 + 1.1 * WITHIN)
    history = history_of([50.0, 10.0, near, far, None])
    assert numbers(history, default=3) == [1, 2, 3]
    assert numbers(history, default=1) == [1, 2]
    assert numbers(history, default=0) == [1, 2]  # it takes five times as long
    assert numbers(history, default=4) == [1, 2]  # it is wrong
    assert numbers(history_of([None]), default=0) == []


def test_finalists_are_few_and_the_first_found_of_equals() -> None:
    assert numbers(history_of([19.0] + [10.0] * 12), default=0) == [*range(1, 1 + MOST), 0]


def test_the_final_decides_and_not_the_search() -> None:
    final = final_of([10.0, 10.1, 10.2], [10.3, 10.2, 10.0])
    assert final.winner.config == CONFIGS[2] and final.tied == ()
    assert final.took_part == tuple(CONFIGS[:3])
    evaluation = final.winner.evaluation
    assert evaluation.measured == Measurement(10.0, 10.0, 10.0, 0.1, 2e-4, 10, 1980)
    assert (evaluation.efficiency, evaluation.error, evaluation.predicted_us) == (0.1, 2e-4, 7.0)


def test_two_searches_that_find_other_times_have_the_same_winner_or_it_ties() -> None:
    first = final_of([10.0, 10.1, 10.2], [10.02, 10.0, 10.2])
    second = final_of([10.2, 10.0, 10.1], [10.0, 10.02, 10.2], default=2)
    assert first.winner.config == second.winner.config == CONFIGS[0]
    assert first.tied == second.tied == (CONFIGS[1],)


def test_one_that_fails_in_the_final_does_not_win() -> None:
    final = final_of([10.0, 10.1], [None, 10.1])
    assert final.winner.config == CONFIGS[1] and final.took_part == tuple(CONFIGS[:2])


def test_a_final_in_which_all_fail_is_told_and_decides_nothing() -> None:
    with pytest.warns(UserWarning, match=r"could not be measured together \(it is wrong now\), so the best of the sea"):
        assert final_of([10.0], [None]) is None


def test_what_a_new_rule_forbids_takes_no_part() -> None:
    def strict(config: Any) -> Any:
        if config == CONFIGS[0]:
            raise InfeasibleError("new", "rows must be more")
        return plan(config)

    history: Any = history_of([10.0, 10.1])
    final = hold_final(history, CONFIGS[0], strict, Bench([10.0, 10.1]))  # type: ignore[arg-type]
    assert final is not None and final.winner.config == CONFIGS[1]


def test_nothing_found_is_no_final() -> None:
    assert final_of([None], [None]) is None
