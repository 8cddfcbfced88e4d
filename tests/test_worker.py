from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from planted import LAST_COLUMN, Planted, Replaced, truth_but
from stubs import stub

from kgen import render
from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.compile import Cubin, compile_cubin
from kgen.devices import find_device
from kgen.errors import DeviceError
from kgen.worker import Job, Outcome, Worker

H200 = find_device("h200")
PROBLEM = Problem(batch=2, height=3, width=4, channels=16, expansion=1)
CONFIG = default_config(PROBLEM, H200)
NO_CUBIN = Cubin(b"", "sm_90", "", {}, "", 0.0)


@pytest.fixture(scope="module")
def worker():
    with Worker(H200) as worker:
        yield worker


def job(config=CONFIG, problem=PROBLEM):
    return Job(problem, config, H200, NO_CUBIN)


def child_of(worker):
    return worker._child._process.pid


def test_a_good_candidate_is_verified_in_the_emulator(worker):
    result = worker.run(job(), 60)
    assert (result.outcome, result.reason) == (Outcome.OK, "")
    assert 0 < result.error < 2**-10
    assert result.measured is None
    assert result.seconds > 0


def test_one_child_serves_many_jobs(worker):
    worker.run(job(), 60)
    child = child_of(worker)
    worker.run(job(), 60)
    assert child_of(worker) == child


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with SIGSEGV"),
        ("os.write(2, b'out of luck\\n'); os._exit(3)", r"ended with exit code 3 \(out of luck\)"),
        ("raise MemoryError('20 TB')", "must fit in memory, but it ran out of it: 20 TB"),
        ("raise ZeroDivisionError('oops')", "it raised ZeroDivisionError: oops"),
    ],
)
def test_a_crashing_candidate_is_recorded_and_the_next_one_runs(worker, action, reason):
    result = worker.run(job(Planted(action)), 60)
    assert result.outcome is Outcome.CRASHED
    assert re.search(reason, result.reason)
    assert worker.run(job(), 60).outcome is Outcome.OK


def test_a_hanging_candidate_is_stopped_and_the_next_one_runs(worker):
    start = time.perf_counter()
    worker.run(job(), 60)
    child = child_of(worker)
    result = worker.run(job(Planted("time.sleep(1000)")), 0.5)
    assert result.outcome is Outcome.TIMEOUT
    assert "within 0.5 s" in result.reason
    assert time.perf_counter() - start < 20
    assert gone(child)
    assert worker.run(job(), 60).outcome is Outcome.OK


def test_a_child_that_is_killed_while_it_starts_or_waits_is_no_candidates_fault():
    with Worker(H200) as worker:
        for _ in ("starts", "waits"):
            os.kill(child_of(worker), signal.SIGKILL)
            assert worker.run(job(), 60).outcome is Outcome.OK


def test_the_time_limit_leaves_out_the_start_of_the_child():
    with Worker(H200) as fresh:
        assert fresh.run(job(Planted("raise KeyError")), 0.2).outcome is Outcome.CRASHED


def test_an_infeasible_config_names_its_rule(worker):
    result = worker.run(job(replace(CONFIG, stages=0)), 60)
    assert result.outcome is Outcome.INFEASIBLE
    assert "stages" in result.reason


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("", Outcome.WRONG_ANSWER, "got nan"),
        ("y[-1] = 0;", Outcome.WRONG_ANSWER, "next to y"),
        ("if (threadIdx.x == 0) __syncthreads();", Outcome.CRASHED, "threads"),
        ("y[1 << 28] = 0;", Outcome.CRASHED, "SIGSEGV"),
        ("this is no C++", Outcome.COMPILE_FAILED, "must compile"),
    ],
)
def test_a_wrong_kernel_is_recorded_and_the_next_one_runs(worker, body, outcome, reason):
    result = worker.run(job(Replaced.of(CONFIG, body)), 60)
    assert result.outcome is outcome
    assert reason in result.reason
    assert worker.run(job(), 60).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("where", "outcome"),
    [
        ("false", Outcome.OK),
        (LAST_COLUMN, Outcome.WRONG_ANSWER),
        (f"{LAST_COLUMN} && row == height - 1 && image == batch - 1", Outcome.WRONG_ANSWER),
        ("channel == channels - 1", Outcome.WRONG_ANSWER),
    ],
)
def test_a_kernel_that_is_wrong_only_in_the_last_column_is_recorded(worker, where, outcome):
    """Of pixels, or of channels."""
    result = worker.run(job(Replaced.of(CONFIG, truth_but(PROBLEM, CONFIG, H200, where))), 60)
    assert (result.outcome, "relative error" in result.reason) == (outcome, outcome is not Outcome.OK)


def test_an_interrupted_job_does_not_answer_the_next_one(worker):
    def interrupt(*_):
        raise KeyboardInterrupt

    worker.run(job(), 60)
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.run(job(Planted("time.sleep(1); raise ZeroDivisionError")), 60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert worker.run(job(), 60).outcome is Outcome.OK


def test_the_parent_is_free_while_the_child_is_at_it(worker):
    worker.run(job(), 60)
    seconds = []

    def meanwhile():
        start = time.perf_counter()
        time.sleep(0.6)
        seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    result = worker.run(job(Planted("time.sleep(0.5); raise KeyError")), 60, meanwhile)
    assert len(seconds) == 1 and time.perf_counter() - start < seconds[0] + 0.4
    assert 0.5 <= result.seconds < seconds[0] + 0.1, "the child's time alone"


def test_what_is_raised_meanwhile_ends_the_child_with_its_job(worker):
    worker.run(job(), 60)
    with pytest.raises(ZeroDivisionError):
        worker.run(job(Planted("time.sleep(1000)")), 60, lambda: 1 / 0)
    assert worker.run(job(), 60).outcome is Outcome.OK


def test_jobs_run_together_each_have_a_result(worker):
    good, infeasible = worker.run_together([job(), job(replace(CONFIG, stages=0))], 60)
    assert (good.outcome, infeasible.outcome) == (Outcome.OK, Outcome.INFEASIBLE)
    assert good.seconds == infeasible.seconds > 0


@pytest.mark.parametrize(
    ("action", "outcome"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", Outcome.CRASHED), ("time.sleep(1000)", Outcome.TIMEOUT)],
)
def test_one_that_ends_the_process_ends_those_that_run_with_it(worker, action, outcome):
    worker.run(job(), 60)
    results = worker.run_together([job(Planted("raise KeyError")), job(Planted(action))], 1.0)
    assert [one.outcome for one in results] == [outcome] * 2
    assert worker.run(job(), 60).outcome is Outcome.OK


def test_closing_ends_the_child():
    worker = Worker(H200)
    worker.run(job(), 60)
    child = child_of(worker)
    worker.close()
    worker.close()
    assert gone(child)


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_dies_with_a_killed_parent(busy, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from test_worker import H200, Planted, Worker, child_of, job
        worker = Worker(H200)
        worker.run(job(Planted("raise KeyError")), 60)
        print(child_of(worker), flush=True)
        worker.run(job(Planted("time.sleep(1000)")), 1000) if {busy} else sys.stdin.read()
        """)
    )
    parent = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    assert not gone(child, within_s=0)
    parent.kill()
    parent.wait()
    assert gone(child)
    parent.stdin.close()
    parent.stdout.close()


def test_a_child_that_cannot_start_is_a_device_error():
    with (
        Worker(replace(H200, ordinal=99)) as worker,
        pytest.raises(DeviceError, match="worker process for h200 must start"),
    ):
        worker.run(job(), 60)


def gone(pid, within_s=10):
    """Whether a process ends in time; a zombie has ended."""
    deadline = time.perf_counter() + within_s
    while True:
        try:
            alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            alive = False
        if not alive or time.perf_counter() >= deadline:
            return not alive
        time.sleep(0.05)


@pytest.fixture(scope="module")
def gpu_worker():
    with Worker(find_device("cuda:0")) as worker:
        yield worker


def gpu_job(body=None):
    """A job whose cubin holds the config's own kernels, or stubs with ``body``."""
    device = find_device("cuda:0")
    program = plan(PROBLEM, CONFIG, device)
    source = render.render(program) if body is None else stub(program, body)
    return Job(PROBLEM, CONFIG, device, compile_cubin(source, device.arch))


@pytest.mark.gpu
def test_a_good_candidate_is_timed_on_the_gpu(gpu_worker):
    result = gpu_worker.run(gpu_job(), 60)
    assert (result.outcome, result.reason) == (Outcome.OK, "")
    measured = result.measured
    assert 0 < measured.p20_us <= measured.median_us <= measured.p80_us < 1000
    assert 0 < measured.efficiency < 1
    assert measured.error == result.error


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        ("", Outcome.WRONG_ANSWER, "got nan"),
        ("y[-1 - int(threadIdx.x)] = 0;", Outcome.WRONG_ANSWER, "next to y"),
        ("*(volatile int*)16 = 1;", Outcome.CRASHED, "illegal"),
        ("while (*(volatile int*)y != 5) {}", Outcome.TIMEOUT, "still running"),
        ("__trap();", Outcome.CRASHED, "raised"),
    ],
)
def test_a_bad_kernel_on_the_gpu_is_recorded_and_the_next_one_runs(gpu_worker, body, outcome, reason):
    result = gpu_worker.run(gpu_job(body), 10)
    assert result.outcome is outcome
    assert reason in result.reason
    assert gpu_worker.run(gpu_job(), 60).outcome is Outcome.OK


@pytest.mark.gpu
def test_a_broken_cubin_fails_to_launch(gpu_worker):
    good = gpu_job()
    result = gpu_worker.run(replace(good, cubin=replace(good.cubin, data=b"not a cubin")), 60)
    assert result.outcome is Outcome.LAUNCH_FAILED
    assert gpu_worker.run(good, 60).outcome is Outcome.OK
