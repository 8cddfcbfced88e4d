"""A candidate as a job, what can become of it, and how a worker process runs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cases import cached_case
from kgen.compile import Cubin
from kgen.devices import Device
from kgen.energy import measure_energy
from kgen.errors import CompileError, EmulatorError, InfeasibleError, VerificationError
from kgen.launch import LaunchError, LoadedProgram
from kgen.machine import Config, efficiency
from kgen.measure import measure, measure_briefly
from kgen.tuned_file import Measurement
from kgen.verify import check_in_emulator


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

    With ``give_up_us`` it is timed briefly, and no further once it is seen to take longer than that. With ``energy``
    its energy is measured too.
    """

    problem: KernelProblem
    config: Config
    device: Device
    cubin: Cubin
    give_up_us: float | None = None
    energy: bool = False


@dataclass(frozen=True)
class Result:
    """A candidate's outcome and, unless it is OK, the reason in one sentence.

    ``measured`` is None unless the candidate was timed; ``error`` is the relative L2 error against float64 of an
    output that passed. ``seconds`` is the time the job took in the worker.
    """

    outcome: Outcome
    reason: str = ""
    measured: Measurement | None = None
    error: float | None = None
    seconds: float = 0.0


_OUTCOMES: dict[type[Exception], Outcome] = {
    InfeasibleError: Outcome.INFEASIBLE,
    CompileError: Outcome.COMPILE_FAILED,
    LaunchError: Outcome.LAUNCH_FAILED,
    VerificationError: Outcome.WRONG_ANSWER,
    EmulatorError: Outcome.CRASHED,
}


def run_job(job: Job) -> Result:
    """Verify and time a candidate in this process; whatever it raises becomes its outcome."""
    try:
        return _verify_and_measure(job)
    except tuple(_OUTCOMES) as error:
        return Result(next(outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind)), str(error))
    except MemoryError as error:
        return Result(Outcome.CRASHED, f"a candidate must fit in memory, but it ran out of it: {error}")
    except Exception as error:
        return Result(Outcome.CRASHED, f"a candidate must run, but it raised {type(error).__name__}: {error}")


def _verify_and_measure(job: Job) -> Result:
    if job.device.ordinal is None:
        errors = check_in_emulator(job.problem, job.config, job.device)
        return Result(Outcome.OK, error=errors.output)
    loaded = LoadedProgram(family(job.problem.family).plan(job.problem, job.config, job.device), job.cubin)
    case = cached_case(job.problem)
    if job.give_up_us is None:
        timing, errors = measure(case, loaded)
    else:
        timing, errors = measure_briefly(case, loaded, job.give_up_us)
    measured = Measurement(
        median_us=timing.median_us,
        p20_us=timing.p20_us,
        p80_us=timing.p80_us,
        efficiency=efficiency(job.problem.flops, timing.median_us, job.device),
        error=errors.output,
        energy_j=measure_energy(case, loaded) if job.energy else None,
    )
    return Result(Outcome.OK, measured=measured, error=errors.output)
