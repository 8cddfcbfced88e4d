"""Jobs on a GPU that is not there: each candidate's outcome, whatever happens to the others that take turns with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kgen import jobs, launch
from kgen.blocks.convfirst import Problem, default_config
from kgen.cases import Errors
from kgen.compile import Cubin
from kgen.devices import find_device
from kgen.errors import VerificationError
from kgen.jobs import Job, Outcome, run_jobs
from kgen.launch import LaunchError
from kgen.machine import efficiency
from kgen.timing import Timing

LOCAL = replace(find_device("h200"), ordinal=0)
PROBLEM = Problem(batch=1, height=7, width=7, channels=64)
CONFIG = default_config(PROBLEM, LOCAL)
ERRORS = Errors(1e-4, 2e-4, 3e-4)


def job(config=CONFIG, cubin=b"good", **fields):
    return Job(PROBLEM, config, LOCAL, Cubin(cubin, "sm_90", "", {}, "", 0.0), **fields)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that loads cubins called good or wrong, and finds the latter's output wrong; ``asked`` is how to time."""
    asked = []

    class Loaded(launch.LoadedProgram):
        def __init__(self, program, cubin):
            if cubin.data not in (b"good", b"wrong"):
                raise LaunchError("the driver rejects it")
            self.program, self.name = program, cubin.data

    def measure_together(case, programs, **how):
        asked.append(how)
        good = Timing((12.0, 10.0, 11.0), 64, 1980), ERRORS
        return [good if one.name == b"good" else VerificationError("it is wrong") for one in programs]

    monkeypatch.setattr(jobs, "LoadedProgram", Loaded)
    monkeypatch.setattr(jobs, "measure_together", measure_together)
    monkeypatch.setattr(jobs, "cached_case", lambda problem: None)
    return asked


def test_a_candidate_is_measured_with_its_shots_and_the_clock(gpu):
    (result,) = run_jobs([job()])
    assert result.outcome is Outcome.OK and result.shots_us == (12.0, 10.0, 11.0) and result.error == 1e-4
    measured = result.measured
    assert (measured.median_us, measured.shots, measured.clock_mhz, measured.error) == (11.0, 3, 1980, 1e-4)
    assert (measured.p20_us, measured.p80_us) == (10.4, 11.6)
    assert measured.efficiency == efficiency(PROBLEM.flops, 11.0, LOCAL)


def test_how_long_it_is_timed_is_up_to_the_job(gpu):
    run_jobs([job()])
    run_jobs([job(target=0.01, give_up_us=30.0)])
    assert gpu == [{"target": 0.0, "give_up_us": math.inf}, {"target": 0.01, "give_up_us": 30.0}]


def test_of_jobs_that_take_turns_each_has_its_own_outcome(gpu):
    illegal = job(replace(CONFIG, stages=0))
    results = run_jobs([illegal, job(), job(cubin=b"wrong"), job(cubin=b"other"), job()])
    assert [one.outcome.value for one in results] == ["infeasible", "ok", "wrong_answer", "launch_failed", "ok"]
    assert results[2].reason == "it is wrong" and results[3].reason == "the driver rejects it"
    assert results[2].shots_us == ()


def test_nothing_is_timed_when_nothing_loads(gpu):
    (result,) = run_jobs([job(cubin=b"other")])
    assert result.outcome is Outcome.LAUNCH_FAILED and gpu == []


def test_what_spoils_the_gpu_is_the_outcome_of_all(gpu, monkeypatch):
    def fault(*_, **__):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(jobs, "measure_together", fault)
    results = run_jobs([job(), job()])
    assert [one.outcome for one in results] == [Outcome.CRASHED] * 2
    assert "it raised RuntimeError: an illegal memory access" in results[0].reason
