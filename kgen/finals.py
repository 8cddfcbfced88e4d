"""Finals: configs of one problem verified and timed turn by turn, and the choice among those that tie.

Of the configs that cannot be told apart from the fastest (:func:`kgen.shots.tied`) the winner is the one that needs the
fewest bytes of shared memory, then the first by its fields as sorted JSON: an order that no measurement changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kgen.compile import Cubin
from kgen.devices import Device
from kgen.errors import KgenError
from kgen.jobs import Job, Outcome, Result
from kgen.machine import Config, Program
from kgen.model import predict_us
from kgen.shots import tied


class Runner(Protocol):
    """What finals need of :class:`kgen.worker.Worker`."""

    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]: ...


@dataclass(frozen=True)
class Finalist:
    """A program and what became of it; ``predicted_us`` is None when it did not compile."""

    program: Program
    result: Result
    predicted_us: float | None = None

    @property
    def config(self) -> Config:
        return self.program.config

    @property
    def rank(self) -> tuple[int, str]:
        """Least wins among those that tie."""
        shared_bytes = max((kernel.shared_bytes for kernel in self.program.kernels), default=0)
        return shared_bytes, json.dumps(self.config.to_json(), sort_keys=True)


def hold(
    started: Sequence[tuple[Program, Future[Cubin]]],
    device: Device,
    runner: Runner,
    timeout_s: float,
    *,
    energy: bool = False,
) -> tuple[Finalist, ...]:
    """What became of programs of one problem, in their order, once they are compiled; maybe with their energy."""
    compiled = [(program, _await(future)) for program, future in started]
    jobs = [_job(program, device, cubin, energy) for program, cubin in compiled if isinstance(cubin, Cubin)]
    results = iter(_run(jobs, runner, timeout_s) if jobs else ())
    return tuple(
        Finalist(program, next(results), predict_us(program, cubin.resources))
        if isinstance(cubin, Cubin)
        else Finalist(program, cubin)
        for program, cubin in compiled
    )


def choose(finalists: Sequence[Finalist]) -> tuple[Finalist, ...]:
    """Those that passed and tie with the fastest, the winner first; empty when none passed."""
    passed = [one for one in finalists if one.result.outcome is Outcome.OK]
    if not passed:
        return ()
    ties = tied(np.array([one.result.shots_us for one in passed]).T)
    return tuple(sorted((one for one, tie in zip(passed, ties, strict=True) if tie), key=lambda one: one.rank))


def _run(jobs: Sequence[Job], runner: Runner, timeout_s: float) -> Sequence[Result]:
    """Results of jobs that take turns. One that ends the process, or hangs, is found by running each alone."""
    results = runner.run_together(jobs, timeout_s)
    if len(jobs) == 1 or not {Outcome.CRASHED, Outcome.TIMEOUT} & {one.outcome for one in results}:
        return results
    alone = [runner.run_together([job], timeout_s)[0] for job in jobs]
    good = [job for job, one in zip(jobs, alone, strict=True) if one.outcome is Outcome.OK]
    again = iter(runner.run_together(good, timeout_s) if good else ())
    return [next(again) if one.outcome is Outcome.OK else one for one in alone]


def _await(future: Future[Cubin]) -> Cubin | Result:
    try:
        return future.result()
    except KgenError as error:
        return Result(Outcome.COMPILE_FAILED, str(error))


def _job(program: Program, device: Device, cubin: Cubin, energy: bool) -> Job:
    problem: Any = program.problem  # a program's family is known at run time only
    return Job(problem, program.config, device, cubin, energy=energy)
