"""Searching in a recorded space: no GPU, and the time that compiling and measuring took passes at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from kgen.search.evaluate import Evaluation, Meanwhile, plan_of, refuse_spills
from kgen.search.history import History
from kgen.search.loop import Limits, Search
from kgen.search.progress import Report, silent
from kgen.search.recorded import Recorded
from kgen.search.samplers import DEFAULT_SAMPLER, check_sampler, make_sampler
from kgen.search.space import recorded_space
from kgen.search.tuner import ahead_of, check_limits

from kgen.blocks import family
from kgen.budget import Budget
from kgen.machine import Config, Program
from kgen.model import Constants


@dataclass(frozen=True)
class Replayed:
    """What a search in a recorded space found: evaluations in the order they were told, and simulated seconds."""

    recorded: Recorded
    found: tuple[tuple[Config, Evaluation], ...]
    seconds: float
    ended: str
    """Why the search ended."""

    @property
    def best(self) -> tuple[Config, Evaluation] | None:
        """The config of the highest efficiency; None when none passed."""
        passed = [one for one in self.found if one[1].efficiency is not None]
        return max(passed, key=lambda one: one[1].efficiency or 0.0) if passed else None

    def until(self, share: float) -> int | None:
        """Evaluations until one was within ``share`` of the best latency that is recorded; None when none was."""
        least = (self.recorded.best.efficiency or 0.0) / (1 + share)
        good = (count for count, (_, one) in enumerate(self.found, 1) if (one.efficiency or 0.0) >= least)
        return next(good, None)


def replay(
    recorded: Recorded,
    *,
    trials: int,
    budget_s: float,
    until: float | None = None,
    sampler: str = DEFAULT_SAMPLER,
    seed: int = 0,
    ahead: int | None = None,
    constants: Constants | None = None,
    progress: Report = silent,
) -> Replayed:
    """Search a recorded space as :func:`kgen.search.tune` searches one, without its seeds; nothing is saved.

    Results depend on ``sampler`` and ``seed`` alone. ``ahead`` candidates compile ahead of the one that is measured, on
    the cores of the machine that recorded; by default as many as in a search there. ``constants`` are the performance
    model's, which may have seen the space unless they were fitted elsewhere; by default the device's.

    Raises:
        ProblemError: ``trials`` or ``until`` is not positive.
        StudyError: there is no such sampler, the package that it needs is missing, or it cannot tell when to stop.
    """
    check_limits(trials, until)
    check_sampler(sampler, until=until is not None)
    header = recorded.header
    make_config = family(header.problem.family).config_from_json
    study = optuna.create_study(direction="maximize")
    plan = partial(plan_of, header.problem, header.device)
    space = recorded_space(make_config, list(recorded.evaluations))
    study.sampler = make_sampler(sampler, space, study, plan, seed, constants)
    bench = ReplayBench(recorded)
    ahead = ahead_of(header.cores) if ahead is None else ahead
    limits = Limits(trials, Budget(budget_s, start_s=0.0), ahead, until)
    history = History(study, make_config, plan)
    search = Search(
        study, space, plan, bench, history, limits, report=progress, improved=lambda search: None, clock=bench.clock
    )
    search.run()
    return Replayed(recorded, tuple(bench.finished), search.seconds, search.ended)


class ReplayBench:
    """Evaluates the configs of a recorded space by looking them up; ``clock`` tells the simulated time."""

    measures = True

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._now_s = 0.0
        self._cores = [0.0] * recorded.header.cores
        self.finished: list[tuple[Config, Evaluation]] = []

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds since the start, as they would have passed."""
        return lambda: self._now_s

    def start(self, program: Program) -> Future[float]:
        """A future of the time at which the candidate is compiled, on the first core that is free."""
        begin_s = max(self._now_s, heapq.heappop(self._cores))
        end_s = begin_s + (self._recorded.evaluations[program.config].compile_s or 0.0)
        heapq.heappush(self._cores, end_s)
        future: Future[float] = Future()
        future.set_result(end_s)
        return future

    def first(self, futures: Sequence[Future[float]]) -> int:
        """The one that is compiled first, once it is."""
        place = min(range(len(futures)), key=lambda one: futures[one].result())
        self._now_s = max(self._now_s, futures[place].result())
        return place

    def finish(
        self,
        program: Program,
        future: Future[Any],
        *,
        best_efficiency: float | None,
        may_spill: bool,
        meanwhile: Meanwhile = lambda: None,
    ) -> Evaluation:
        """What was recorded, once it is compiled and, unless it spills too much for a search, measured."""
        evaluation = self._recorded.evaluations[program.config]
        if not may_spill:
            evaluation = refuse_spills(evaluation)
        self._now_s = max(self._now_s, future.result())
        if evaluation.run_s is not None:
            meanwhile()
            self._now_s += evaluation.run_s
        self.finished.append((program.config, evaluation))
        return evaluation
