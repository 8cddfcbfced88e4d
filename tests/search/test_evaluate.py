"""Evaluating one candidate: each way it can fail, what is recorded, and when the model alone decides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from kgen.search.evaluate import SPILL_LIMIT_BYTES, Bench, Evaluation

from kgen.blocks.convfirst import default_config, plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.compile import Cubin, Resources
from kgen.devices import find_device
from kgen.errors import CompileError
from kgen.machine import efficiency
from kgen.model import predict_us
from kgen.shots import RESOLUTION
from kgen.tuned import Measurement
from kgen.worker import Job, Outcome, Result

NAMED = find_device("h200")
LOCAL = replace(NAMED, ordinal=0)
PROBLEM = ConvFirst(1, 14, 14, 64)
MEASURED = Measurement(median_us=10.0, p20_us=9.0, p80_us=11.0, efficiency=0.125, error=1e-4)
CLEAN = Resources(registers=64, spill_store_bytes=0, spill_load_bytes=0, stack_bytes=0, static_shared_bytes=0)


class FakePool:
    def __init__(self) -> None:
        self.submitted: list[tuple[str, str]] = []

    def submit(self, source: Any, arch: str) -> Future[Cubin]:
        self.submitted.append((source.digest, arch))
        return Future()


class FakeWorker:
    def __init__(self, result: Result) -> None:
        self.result = result
        self.jobs: list[Job] = []

    def run(self, job: Job, timeout_s: float, *meanwhile: Callable[[], object]) -> Result:
        assert timeout_s > 0
        self.jobs.append(job)
        return self.result

    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        return tuple(self.run(job, timeout_s) for job in jobs)


class Compiled(FakePool):
    def submit(self, source: Any, arch: str) -> Future[Cubin]:
        super().submit(source, arch)
        return done(cubin())


def done(value: Cubin | Exception) -> Future[Cubin]:
    future: Future[Cubin] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


def cubin(resources: Resources = CLEAN) -> Cubin:
    return Cubin(b"", "sm_90", "digest", {"kernel": resources}, "", 1.5)


def evaluate(
    device: Any,
    compiled: Cubin | Exception,
    result: Result,
    *,
    best: float | None = None,
    may_spill: bool = False,
) -> tuple[Evaluation, FakeWorker]:
    program = plan(PROBLEM, default_config(PROBLEM, device), device)
    worker = FakeWorker(result)
    bench = Bench(device, FakePool(), worker)
    evaluation = bench.finish(program, done(compiled), best_efficiency=best, may_spill=may_spill)
    return evaluation, worker


def test_candidates_are_rendered_and_submitted_for_the_device() -> None:
    pool = FakePool()
    bench = Bench(NAMED, pool, FakeWorker(Result(Outcome.OK)))
    bench.start(plan(PROBLEM, default_config(PROBLEM, NAMED), NAMED))
    ((digest, arch),) = pool.submitted
    assert len(digest) == 64 and arch == "sm_90"


def test_a_program_says_what_it_is_compiled_for() -> None:
    pool, program = FakePool(), plan(PROBLEM, default_config(PROBLEM, NAMED), NAMED)
    Bench(NAMED, pool, FakeWorker(Result(Outcome.OK))).start(replace(program, arch="sm_90a"))
    assert [arch for _, arch in pool.submitted] == ["sm_90a"]


def test_a_measured_candidate() -> None:
    evaluation, worker = evaluate(LOCAL, cubin(), Result(Outcome.OK, measured=MEASURED, error=1e-4), best=0.9)
    assert len(worker.jobs) == 1  # measured however good the best is
    assert (evaluation.outcome, evaluation.verified, evaluation.efficiency) == (Outcome.OK, True, 0.125)
    assert (evaluation.latency_us, evaluation.registers) == (10.0, {"kernel": 64})
    assert evaluation.compile_s == 1.5 and evaluation.predicted_us is not None


def test_a_candidate_is_timed_to_the_resolution_and_no_further_at_twice_the_best_time() -> None:
    _, first = evaluate(LOCAL, cubin(), Result(Outcome.OK, measured=MEASURED))
    _, next_one = evaluate(LOCAL, cubin(), Result(Outcome.OK, measured=MEASURED), best=0.25)
    assert [(job.target, job.give_up_us) for job in first.jobs] == [(RESOLUTION, math.inf)]
    ((target, give_up_us),) = [(job.target, job.give_up_us) for job in next_one.jobs]
    assert target == RESOLUTION and efficiency(PROBLEM.flops, give_up_us, LOCAL) == pytest.approx(0.125)


def test_finalists_are_compiled_and_timed_as_long_as_a_measurement_lasts() -> None:
    config = default_config(PROBLEM, LOCAL)
    programs = [plan(PROBLEM, replace(config, stages=stages), LOCAL) for stages in (2, 3)]
    pool, worker = Compiled(), FakeWorker(Result(Outcome.OK, measured=MEASURED))
    compared = Bench(LOCAL, pool, worker).compare(programs)
    assert len(pool.submitted) == 2 and [one.config for one in compared] == [job.config for job in worker.jobs]
    assert [(job.target, job.give_up_us) for job in worker.jobs] == [(0.0, math.inf)] * 2


@pytest.mark.parametrize("energy", [False, True])
def test_energy_is_measured_when_asked_for(energy: bool) -> None:
    worker = FakeWorker(Result(Outcome.OK, measured=replace(MEASURED, energy_j=0.02), error=1e-4))
    bench = Bench(LOCAL, FakePool(), worker, energy=energy)
    program = plan(PROBLEM, default_config(PROBLEM, LOCAL), LOCAL)
    evaluation = bench.finish(program, done(cubin()), best_efficiency=None, may_spill=False)
    assert [job.energy for job in worker.jobs] == [energy]
    assert Evaluation.from_attrs(json.loads(json.dumps(evaluation.to_attrs()))) == evaluation


def test_a_modelled_candidate_is_verified_only_when_it_would_be_the_best() -> None:
    program = plan(PROBLEM, default_config(PROBLEM, NAMED), NAMED)
    modelled = efficiency(PROBLEM.flops, predict_us(program, {"kernel": CLEAN}), NAMED)
    first, worker = evaluate(NAMED, cubin(), Result(Outcome.OK, error=1e-4))
    assert worker.jobs and first.verified and first.measured is None
    assert first.efficiency == pytest.approx(modelled)
    second, worker = evaluate(NAMED, cubin(), Result(Outcome.OK), best=modelled * 2)
    assert not worker.jobs and not second.verified
    assert second.outcome is Outcome.OK and second.efficiency == first.efficiency


@pytest.mark.parametrize("outcome", [Outcome.WRONG_ANSWER, Outcome.TIMEOUT, Outcome.CRASHED, Outcome.LAUNCH_FAILED])
def test_a_candidate_that_fails_in_the_worker(outcome: Outcome) -> None:
    evaluation, _ = evaluate(LOCAL, cubin(), Result(outcome, "it fails"))
    assert (evaluation.outcome, evaluation.reason, evaluation.efficiency) == (outcome, "it fails", None)
    assert evaluation.compiled and not evaluation.verified and evaluation.kind == outcome.value


def test_a_candidate_that_does_not_compile() -> None:
    evaluation, worker = evaluate(LOCAL, CompileError("no such thing"), Result(Outcome.OK))
    assert (evaluation.outcome, evaluation.reason) == (Outcome.COMPILE_FAILED, "no such thing")
    assert evaluation.compiled and not worker.jobs


def test_a_candidate_whose_compilation_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.search.evaluate.COMPILE_LIMIT_S", 0.05)
    program, future = plan(PROBLEM, default_config(PROBLEM, LOCAL), LOCAL), Future[Cubin]()
    bench = Bench(LOCAL, FakePool(), FakeWorker(Result(Outcome.OK)))
    assert bench.first([future]) == 0
    late = bench.finish(program, future, best_efficiency=None, may_spill=False)
    assert late.outcome is Outcome.TIMEOUT and "longer than 0.05 s" in late.reason and late.run_s is None


def test_the_first_that_is_compiled() -> None:
    bench, futures = Bench(LOCAL, FakePool(), FakeWorker(Result(Outcome.OK))), [Future[Cubin]() for _ in range(3)]
    futures[2].set_result(cubin())
    assert bench.first(futures) == 2
    futures[1].set_exception(CompileError("no such thing"))
    assert bench.first(futures) == 1


def test_spills_are_infeasible_except_for_favourites() -> None:
    spilling = cubin(replace(CLEAN, spill_store_bytes=SPILL_LIMIT_BYTES, spill_load_bytes=4))
    ok = Result(Outcome.OK, measured=MEASURED)
    refused, worker = evaluate(LOCAL, spilling, ok)
    assert (refused.kind, refused.spill_bytes, worker.jobs) == ("infeasible:spills", SPILL_LIMIT_BYTES + 4, [])
    assert f"at most {SPILL_LIMIT_BYTES} bytes" in refused.reason
    few, _ = evaluate(LOCAL, cubin(replace(CLEAN, spill_store_bytes=SPILL_LIMIT_BYTES)), ok)
    assert few.outcome is Outcome.OK
    allowed, worker = evaluate(LOCAL, spilling, ok, may_spill=True)
    assert allowed.outcome is Outcome.OK and len(worker.jobs) == 1


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(Outcome.INFEASIBLE, "too large", "shared_memory"),
        Evaluation(Outcome.COMPILE_FAILED, "no", compiled=True),
        Evaluation(
            Outcome.OK,
            efficiency=0.5,
            verified=True,
            compiled=True,
            predicted_us=9.5,
            compile_s=0.5,
            registers={"a": 32},
            spill_bytes=0,
            measured=MEASURED,
            error=1e-4,
        ),
    ],
)
def test_attributes_are_json_and_round_trip(evaluation: Evaluation) -> None:
    attrs = json.loads(json.dumps(evaluation.to_attrs()))
    assert attrs["outcome"] == evaluation.outcome.value
    assert Evaluation.from_attrs({**attrs, "config": {}}) == evaluation
