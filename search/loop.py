"""The search loop: ask ahead while candidates compile, finish them in the order they are compiled, tell the study.

What to try next is decided while a candidate is measured, so that the GPU does not wait for it.

A trial ends COMPLETE with its objectives' values, PRUNED when its config has none (the outcome says why), or FAIL when
it was interrupted or left to another tuner. Configs that make one program, source and launch alike, are measured once.
Other tuners may search the same study: what they evaluated is learned from, and what they are at is left to them. Where
one of them took this tuner for dead and freed one of its trials, Optuna refuses what is told of it, and it is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from kgen.search.evaluate import Evaluation, Evaluator
from kgen.search.history import DUPLICATE_OF, History, Known
from kgen.search.objectives import BY_EFFICIENCY, values_of
from kgen.search.progress import Report, Snapshot
from kgen.search.retry import BEGAN, SEEDED
from kgen.search.samplers import ENDED, SpaceSampler
from kgen.search.space import Space
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from kgen.budget import Budget
from kgen.errors import InfeasibleError
from kgen.machine import Config, Program
from kgen.worker import Outcome

_POLL_S = 0.5


@dataclass(frozen=True)
class Limits:
    """When a search stops: at ``trials`` compiled candidates in the study, when the ``budget`` is spent, or ``until``.

    The last is a share of the best config's time: no config that is left is expected to save as much.
    """

    trials: int
    budget: Budget
    ahead: int
    """Candidates compiled ahead of the one that is evaluated; with 0 each is proposed when the last one is known."""
    until: float | None = None


@dataclass(frozen=True)
class _Candidate:
    trial: optuna.Trial
    config: Config
    program: Program
    compiled: Future[Any]


class Search:
    """One run of a study. ``plan`` makes a config's program; ``improved`` hears of every new best one.

    ``clock`` tells seconds, those of a replay if need be.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        plan: Callable[[Config], Program],
        bench: Evaluator,
        history: History,
        limits: Limits,
        *,
        report: Report,
        improved: Callable[[Search], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self.space = space
        self._plan = plan
        self._bench = bench
        self.history = history
        self._limits = limits
        self._report = report
        self._improved = improved
        self._queue: list[_Candidate] = []
        self._elsewhere: list[FrozenTrial] = []
        self._clock = clock
        self._start_s = clock()
        self._by_efficiency = history.objectives == BY_EFFICIENCY
        self._new = 0
        for config in history.configs:
            space.take(config)

    def seed(self, configs: Sequence[Config]) -> None:
        """Enqueue configs to try first; they may spill, since something has to be there to compare with."""
        for config in configs:
            params = self.space.params(config)
            if params is not None and config in self.space:
                self._study.enqueue_trial(params, user_attrs={SEEDED: True}, skip_if_exists=True)

    def run(self) -> None:
        """Search until a limit is reached; a candidate under way is finished.

        Candidates that are with other tuners are waited for: should one of these die, they come back.
        """
        least = max(1, self._limits.ahead)
        self._tell_progress()
        self._fill(least)
        while (self._queue or self._elsewhere) and self._in_time():
            if self._queue:
                place, wait_s = self._wait()
                with suppress(UpdateFinishedTrialError):
                    self._finish(self._queue[place], wait_s)
                del self._queue[place]
            else:
                time.sleep(_POLL_S)
            self._fill(least)
            self._tell_progress()
        for candidate in self._queue:
            candidate.compiled.cancel()

    @property
    def front(self) -> list[Known]:
        """The Pareto set so far, the best by the first objective first."""
        return self.history.front(self._study)

    @property
    def seconds(self) -> float:
        """Seconds the study was searched for, by this run and those before."""
        return self.history.seconds + self._clock() - self._start_s

    @property
    def ended(self) -> str:
        """Why the search ended, or would if it did now, in words."""
        if not self._in_time():
            return f"the budget of {self._limits.budget.seconds:.3g} s was spent"
        if self._promises_little():
            gain, count = self._expected_gain() or 0.0, len(self.space)
            return f"of {count} configs left, none is expected to save more than {gain:.2%} of the best one's time"
        if not len(self.space):
            return "every config was tried"
        return f"{self.history.evaluated} candidates were evaluated"

    def _in_time(self) -> bool:
        return self._clock() < self._limits.budget.end_s

    def _fill(self, most: int) -> None:
        """Propose until ``most`` candidates are in the queue, or as many as may be."""
        while self._has_room(most):
            with suppress(UpdateFinishedTrialError):
                self._propose()

    def _has_room(self, most: int) -> bool:
        self._learn()
        expected = self.history.evaluated + len(self._queue) + len(self._elsewhere)
        room = len(self._queue) < most and expected < self._limits.trials
        return room and len(self.space) > 0 and self._in_time() and not self._promises_little()

    def _promises_little(self) -> bool:
        gain = self._expected_gain() if self._limits.until is not None else None
        return gain is not None and gain < (self._limits.until or 0.0)

    def _expected_gain(self) -> float | None:
        sampler = self._study.sampler
        return sampler.expected_gain if isinstance(sampler, SpaceSampler) else None

    def _learn(self) -> None:
        """Take in what other tuners of the study evaluated, and propose nothing that they are at."""
        own = {candidate.trial.number for candidate in self._queue}
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, *ENDED))
        best = self.history.best
        for trial in self.history.read(trials):
            self.space.take(self.history.config_of(trial))
            self._study.sampler.after_trial(self._study, trial, trial.state, trial.values)
        if self.history.best is not None and self.history.best is not best:
            self._take_for_best(self.history.best)
        running = (trial for trial in trials if trial.state is TrialState.RUNNING)
        self._elsewhere = [one for one in running if one.number not in own and "config" in one.user_attrs]
        for trial in self._elsewhere:
            self.space.take(self.history.config_of(trial))

    def _is_elsewhere(self, candidate: _Candidate) -> bool:
        """Whether another tuner has the same config, of two that proposed it at the same moment."""
        number = candidate.trial.number
        return any(
            self.history.config_of(other) == candidate.config
            for other in self._elsewhere
            if other.number < number or (other.number > number and BEGAN in other.user_attrs)
        )

    def _propose(self) -> None:
        trial = self._study.ask()
        config = self.space.suggest(trial)
        self.space.take(config)
        trial.set_user_attr("config", config.to_json())
        try:
            program = self._plan(config)
        except InfeasibleError as error:  # enqueued by a kgen with other rules
            self._record(trial, config, Evaluation(Outcome.INFEASIBLE, str(error), error.rule))
            return
        self._queue.append(_Candidate(trial, config, program, self._bench.start(program)))

    def _wait(self) -> tuple[int, float]:
        """The place in the queue of a candidate that is compiled, and the seconds until there was one."""
        start_s = self._clock()
        return self._bench.first([candidate.compiled for candidate in self._queue]), self._clock() - start_s

    def _finish(self, candidate: _Candidate, wait_s: float) -> None:
        self._learn()
        if self._is_elsewhere(candidate):
            self._study.tell(candidate.trial, state=TrialState.FAIL)
            return
        known = self.history.same(candidate.config, candidate.program)
        if known is not None:
            self._repeat(candidate.trial, known)
            return
        candidate.trial.set_user_attr(BEGAN, True)
        evaluation = self._bench.finish(
            candidate.program,
            candidate.compiled,
            best_efficiency=self.history.best_efficiency if self._by_efficiency else None,
            may_spill=SEEDED in candidate.trial.user_attrs,
            meanwhile=partial(self._fill, self._limits.ahead + 1),
        )
        self._new += 1
        waited = replace(evaluation, wait_s=round(wait_s, 3))
        self._record(candidate.trial, candidate.config, waited)

    def _record(self, trial: optuna.Trial, config: Config, evaluation: Evaluation) -> None:
        for name, value in evaluation.to_attrs().items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("search_s", round(self.seconds, 3))
        self._tell(trial, evaluation)
        if self.history.add(trial.number, config, evaluation) and self.history.best is not None:
            self._take_for_best(self.history.best)

    def _take_for_best(self, best: Known) -> None:
        self.space.grow(best.config)
        self._improved(self)

    def _repeat(self, trial: optuna.Trial, known: Known) -> None:
        """Answer a proposal of a program that was evaluated from the record."""
        trial.set_user_attr(DUPLICATE_OF, known.number)
        trial.set_user_attr("outcome", known.evaluation.outcome.value)
        self._tell(trial, known.evaluation)

    def _tell(self, trial: optuna.Trial, evaluation: Evaluation) -> None:
        if evaluation.outcome is Outcome.OK:
            self._study.tell(trial, values_of(self.history.objectives, evaluation))
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _tell_progress(self) -> None:
        best = self.history.best.evaluation if self.history.best else None
        self._report(
            Snapshot(
                done=self.history.evaluated,
                trials=self._limits.trials,
                ahead=len(self._queue) + len(self._elsewhere),
                best_us=best.latency_us if best else None,
                best_efficiency=self.history.best_efficiency,
                failures=dict(self.history.failures),
                elapsed_s=self._clock() - self._limits.budget.start_s,
                budget_s=self._limits.budget.seconds,
                measured=self._bench.measures,
                new=self._new,
            )
        )
