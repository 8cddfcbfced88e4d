"""The search loop: what counts, what is answered from the record, when it ends, and that it repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import optuna
import pytest
from kgen.search.history import DUPLICATE_OF
from kgen.search.loop import Search
from kgen.search.objectives import parse_objectives, set_objectives
from kgen.search.progress import Snapshot
from kgen.search.samplers import SpaceSampler
from optuna.trial import FrozenTrial, TrialState
from search_fakes import DEFAULT, FakeBench, FakeConfig, FakeProgram, efficiency_of, feasible, make_search

from kgen.machine import Config
from kgen.worker import Outcome


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize")


def test_it_stops_at_the_trials_and_each_is_legal_and_new(study: optuna.Study) -> None:
    bench = FakeBench()
    search = make_search(study, bench, 25)
    search.run()
    assert len(bench.log) == len(set(bench.log)) == search.history.evaluated == len(study.trials) == 25
    assert all(feasible(config) for config in bench.log)
    assert search.history.failures == {}
    assert all(t.state is TrialState.COMPLETE for t in study.trials)


def test_seeds_come_first_and_may_spill(study: optuna.Study) -> None:
    bench, seeds = FakeBench(), [DEFAULT, FakeConfig("fused", 4, 4, 64)]
    search = make_search(study, bench, 6)
    search.seed([*seeds, FakeConfig("fused", 99, 1, 16)])  # one lies outside the space
    search.run()
    assert bench.log[:2] == seeds
    assert bench.allowed_to_spill == seeds


def test_the_best_is_found_and_every_improvement_is_announced(study: optuna.Study) -> None:
    announced: list[float] = []

    def improved(search: Search) -> None:
        assert search.history.best is not None and search.seconds >= 0
        announced.append(search.history.best.evaluation.efficiency or 0.0)

    search = make_search(study, FakeBench(), 80, improved=improved)
    search.seed([DEFAULT])
    search.run()
    assert announced == sorted(set(announced))
    assert announced[0] == efficiency_of(DEFAULT)
    assert announced[-1] == search.history.best_efficiency == study.best_value
    assert announced[-1] >= 17 / 20  # the optimum is 18 / 20


def test_failures_are_recorded_and_the_search_goes_on(study: optuna.Study) -> None:
    good = FakeConfig("fused", 2, 2, 16)
    bad = {
        FakeConfig("fused", 1, size, 16): outcome
        for size, outcome in enumerate(
            (Outcome.COMPILE_FAILED, Outcome.LAUNCH_FAILED, Outcome.WRONG_ANSWER, Outcome.TIMEOUT, Outcome.CRASHED), 1
        )
    }
    search = make_search(study, FakeBench(bad), 6)
    search.seed([*bad, good])
    search.run()
    assert search.history.best is not None and search.history.best.config == good
    assert search.history.failures == {outcome.value: 1 for outcome in bad.values()}
    assert search.history.last_failure == "it is bad"
    assert [t.user_attrs["outcome"] for t in study.trials[:5]] == [outcome.value for outcome in bad.values()]
    assert all(t.state is TrialState.PRUNED for t in study.trials[:5])


def test_what_is_compiled_first_is_measured_first(study: optuna.Study) -> None:
    class Reversing(FakeBench):
        """The last one asked for is compiled first, after a second of waiting."""

        now_s = 0.0

        def first(self, futures: Sequence[Future[Any]]) -> int:
            self.now_s += 1.0
            return len(futures) - 1

    bench, seeds = Reversing(), [FakeConfig("fused", 1, size, 16) for size in range(1, 5)]
    search = make_search(study, bench, 4, ahead=4, clock=lambda: bench.now_s)
    search.seed(seeds)
    search.run()
    assert bench.log == seeds[::-1]
    assert [trial.user_attrs["wait_s"] for trial in study.trials] == [1.0] * 4


def test_a_repeated_config_is_answered_from_the_record(study: optuna.Study) -> None:
    first = FakeBench()
    make_search(study, first, 5).run()
    known = first.log[0]
    again = FakeBench()
    search = make_search(study, again, 6, seed=1)
    params = search.space.params(known)
    assert params is not None
    study.enqueue_trial(params)
    search.run()
    repeats = [t for t in study.trials if DUPLICATE_OF in t.user_attrs]
    assert known not in again.log and len(again.log) == 1
    assert repeats[0].value == efficiency_of(known)
    assert search.history.evaluated == 6


def test_two_configs_that_make_one_program_are_measured_once(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = property(lambda program: {"area": program.config.rows * program.config.columns})
    monkeypatch.setattr(FakeProgram, "constants", area)
    bench, alike = FakeBench(), [FakeConfig("fused", 2, 3, 16), FakeConfig("fused", 3, 2, 16)]
    search = make_search(study, bench, 8)
    search.seed(alike)
    search.run()
    areas = [one.rows * one.columns for one in bench.log]
    assert len(areas) == len(set(areas)) == 8 and bench.log[0] == alike[0]
    second = study.trials[1]
    assert second.user_attrs[DUPLICATE_OF] == 0 and second.value == study.trials[0].value


def test_an_enqueued_config_that_breaks_a_rule_is_recorded(study: optuna.Study) -> None:
    search = make_search(study, FakeBench(), 2)
    study.enqueue_trial(search.space.params(FakeConfig("fused", 8, 8, 16)) or {})
    search.run()
    broken = study.trials[0]
    assert broken.state is TrialState.PRUNED and broken.user_attrs["rule"] == "area"
    assert search.history.failures == {"infeasible:area": 1} and search.history.evaluated == 2


def test_an_interrupted_run_goes_on_where_it_stopped(study: optuna.Study) -> None:
    class Interrupting(FakeBench):
        def finish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if len(self.log) == 4:
                raise KeyboardInterrupt
            return super().finish(*args, **kwargs)

    bench = Interrupting()
    search = make_search(study, bench, 10)
    search.seed([DEFAULT])
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert search.history.evaluated == 4
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    rest = FakeBench()
    resumed = make_search(study, rest, 10, seed=1)
    assert resumed.history.evaluated == 4 and resumed.history.best == search.history.best
    resumed.run()
    assert len(rest.log) == 6 and not set(rest.log) & set(bench.log)
    assert resumed.seconds >= search.history.seconds


def test_what_another_tuner_is_at_is_left_to_it_and_what_it_found_is_learned(study: optuna.Study) -> None:
    second = FakeBench()

    class First(FakeBench):
        def finish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if not self.log:  # a tuner of the same seed joins, while three candidates are with this one
                make_search(study, second, 12, budget_s=1.0).run()
            return super().finish(*args, **kwargs)

    first = First()
    search = make_search(study, first, 12)
    search.run()
    assert (len(first.log), len(second.log)) == (3, 9)
    assert len(set(first.log + second.log)) == search.history.evaluated == 12
    assert search.history.best_efficiency == study.best_value


class FirstLeft(SpaceSampler):
    def choose(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        return self._space.left[0]


def test_what_is_next_is_decided_while_a_candidate_is_measured(study: optuna.Study) -> None:
    queued: list[int] = []

    class Bench(FakeBench):
        def finish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            queued.append(len(study.get_trials(states=(TrialState.RUNNING,))))
            evaluation = super().finish(*args, **kwargs)
            queued.append(len(study.get_trials(states=(TrialState.RUNNING,))))
            return evaluation

    make_search(study, Bench(), 10).run()
    assert queued[:8] == [3, 4] * 4, "three compile ahead, one more is proposed meanwhile"
    assert queued[-2:] == [1, 1] and len(study.trials) == 10


def test_an_exhausted_space_ends_the_search(study: optuna.Study) -> None:
    bench = FakeBench()
    search = make_search(study, bench, 10_000)
    listed = len(search.space)
    study.sampler = FirstLeft(search.space)
    search.run()
    assert len(bench.log) == len(set(bench.log)) == len(study.trials) == listed
    assert len(search.space) == 0


def test_a_spent_budget_ends_it_but_a_candidate_under_way_is_finished(study: optuna.Study) -> None:
    bench = FakeBench(delay_s=0.3)
    search = make_search(study, bench, 1000, budget_s=0.2)
    search.seed([DEFAULT, FakeConfig("fused", 1, 1, 16)])
    search.run()
    assert bench.log == [DEFAULT] and search.history.best is not None
    assert search.ended == "the budget of 0.2 s was spent"


def test_what_a_search_spent_before_it_began_counts(study: optuna.Study) -> None:
    search = make_search(study, FakeBench(), 1000, budget_s=0.0)
    search.run()
    assert len(study.trials) == 0 and search.history.best is None


class Promising(FirstLeft):
    """Expects less and less of what is left."""

    @property
    def expected_gain(self) -> float | None:
        evaluated = len(self._space.configs) - len(self._space)
        return None if evaluated < 5 else 0.1 / evaluated


def test_it_ends_when_little_is_left_to_gain(study: optuna.Study) -> None:
    bench = FakeBench()
    search = make_search(study, bench, 1000, until=0.01)
    study.sampler = Promising(search.space)
    search.run()
    assert len(bench.log) == 11 and study.get_trials(states=(TrialState.RUNNING,)) == []
    assert search.ended.endswith("left, none is expected to save more than 0.91% of the best one's time")


def test_why_it_ended_is_said(study: optuna.Study) -> None:
    search = make_search(study, FakeBench(), 3)
    search.run()
    assert search.ended == "3 candidates were evaluated"


def test_several_objectives_give_a_pareto_set_and_the_firsts_best() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"])
    set_objectives(study, parse_objectives("latency,error"))
    asked: list[float | None] = []

    class Bench(FakeBench):
        def finish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            asked.append(kwargs["best_efficiency"])
            evaluation = super().finish(*args, **kwargs)
            return replace(evaluation, error=(evaluation.efficiency or 0.0) ** 2 * (1 + self.log[-1].columns))

    search = make_search(study, Bench(), 60)
    search.run()
    assert set(asked) == {None}, "what is slower may be better in the other objective"
    front = search.front
    assert len(front) > 3 and front[0] == search.history.best
    figures = [(one.evaluation.efficiency or 0.0, one.evaluation.error or 0.0) for one in front]
    assert figures == sorted(figures, reverse=True)
    every = [(trial.values[0], trial.values[1]) for trial in study.trials]
    assert figures[0][0] == max(efficiency for efficiency, _ in every)
    for efficiency, error in every:
        dominated = any(a >= efficiency and b <= error and (a, b) != (efficiency, error) for a, b in figures)
        assert dominated != ((efficiency, error) in figures)


def test_equal_seeds_give_equal_searches() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logs = []
    for seed in (5, 5, 6):
        bench = FakeBench()
        make_search(optuna.create_study(direction="maximize"), bench, 30, seed=seed).run()
        logs.append(bench.log)
    assert logs[0] == logs[1] != logs[2]


def test_progress_is_reported(study: optuna.Study) -> None:
    snapshots: list[Snapshot] = []
    make_search(study, FakeBench(), 7, report=snapshots.append).run()
    assert [one.done for one in snapshots] == list(range(8))
    assert snapshots[0].best_us is None and snapshots[-1].best_us == 1.0
    assert snapshots[-1].trials == snapshots[-1].new == 7 and snapshots[-1].ahead == 0
