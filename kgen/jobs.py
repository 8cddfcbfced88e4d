"""Candidates as jobs, what can become of one, and how a worker process runs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeVar

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cases import Case, Errors, cached_case
from kgen.compile import Cubin
from kgen.devices import Device
from kgen.energy import measure_energy
from kgen.errors import CompileError, EmulatorError, InfeasibleError, KgenError, VerificationError
from kgen.launch import LaunchError, LoadedProgram
from kgen.machine import Config, efficiency
from kgen.measure import measure_together
from kgen.timing import Timing
from kgen.tuned_file import Measurement
from kgen.verify import check_in_emulator

T = TypeVar("T")


class Outcome(str, Enum):
    """What became of a candidate."""

    OK = "ok"
    INFEASIBLE = "infeasible"
    COMPILE_FAILED = "compile_failed"
    LAUNCH_FAILED = "launch_failed"
    WRONG_ANSWER = "wrong_answer"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclass(frozen=True)
class Job:
    """A candidate to verify and, on a GPU, to time; ``cubin`` holds its kernels.

    It is timed until its median is known to ``target`` of itself (0: as long as a measurement lasts), and no further
    once it is seen to take longer than ``give_up_us``. With ``energy`` its energy is measured too.
    """

    problem: KernelProblem
    config: Config
    device: Device
    cubin: Cubin
    target: float = 0.0
    give_up_us: float = math.inf
    energy: bool = False


@dataclass(frozen=True)
class Result:
    """A candidate's outcome and, unless it is OK, the reason in one sentence.

    ``measured`` is None unless the candidate was timed, in ``shots_us``; ``error`` is the relative L2 error against
    float64 of an output that passed. ``seconds`` is the time the job took in the worker. Of jobs that were run together
    the nth shots were taken one after the other.
    """

    outcome: Outcome
    reason: str = ""
    measured: Measurement | None = None
    error: float | None = None
    seconds: float = 0.0
    shots_us: tuple[float, ...] = ()


_OUTCOMES: dict[type[Exception], Outcome] = {
    InfeasibleError: Outcome.INFEASIBLE,
    CompileError: Outcome.COMPILE_FAILED,
    LaunchError: Outcome.LAUNCH_FAILED,
    VerificationError: Outcome.WRONG_ANSWER,
    EmulatorError: Outcome.CRASHED,
}


def run_jobs(jobs: Sequence[Job]) -> tuple[Result, ...]:
    """Verify candidates of one problem in this process, and time those that pass turn by turn.

    Whatever is raised becomes an outcome. When shots end is up to the first job.
    """
    if jobs[0].device.ordinal is None:
        return tuple(_attempt(partial(_emulate, job)) for job in jobs)
    done = _attempt(partial(_measure, jobs))
    return (done,) * len(jobs) if isinstance(done, Result) else done


def _attempt(action: Callable[[], T]) -> T | Result:
    """What ``action`` returns, or a result that says why it did not."""
    try:
        return action()
    except KgenError as error:
        return _failure(error)
    except MemoryError as error:
        return Result(Outcome.CRASHED, f"a candidate must fit in memory, but it ran out of it: {error}")
    except Exception as error:
        return Result(Outcome.CRASHED, f"a candidate must run, but it raised {type(error).__name__}: {error}")


def _failure(error: KgenError) -> Result:
    outcomes = (outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind))
    return Result(next(outcomes, Outcome.CRASHED), str(error))


def _emulate(job: Job) -> Result:
    return Result(Outcome.OK, error=check_in_emulator(job.problem, job.config, job.device).output)


def _measure(jobs: Sequence[Job]) -> tuple[Result, ...]:
    loaded = [_attempt(partial(_load, job)) for job in jobs]
    programs = [one for one in loaded if isinstance(one, LoadedProgram)]
    case, first = cached_case(jobs[0].problem), jobs[0]
    measured: Iterator[tuple[Timing, Errors] | KgenError] = iter(())
    if programs:
        measured = iter(measure_together(case, programs, target=first.target, give_up_us=first.give_up_us))
    return tuple(
        one if isinstance(one, Result) else _attempt(partial(_result, job, case, one, next(measured)))
        for job, one in zip(jobs, loaded, strict=True)
    )


def _load(job: Job) -> LoadedProgram:
    return LoadedProgram(family(job.problem.family).plan(job.problem, job.config, job.device), job.cubin)


def _result(job: Job, case: Case, loaded: LoadedProgram, measured: tuple[Timing, Errors] | KgenError) -> Result:
    if isinstance(measured, KgenError):
        return _failure(measured)
    timing, errors = measured
    measurement = Measurement(
        median_us=timing.median_us,
        p20_us=timing.p20_us,
        p80_us=timing.p80_us,
        efficiency=efficiency(job.problem.flops, timing.median_us, job.device),
        error=errors.output,
        shots=len(timing.shots_us),
        clock_mhz=timing.clock_mhz,
        energy_j=measure_energy(case, loaded) if job.energy else None,
    )
    return Result(Outcome.OK, measured=measurement, error=errors.output, shots_us=timing.shots_us)
