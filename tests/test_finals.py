"""Finals: who wins among those that tie, and that a finalist which fails takes no other with it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from tuned_samples import CONFIG, H200, PROBLEM

from kgen.blocks.convfirst import plan
from kgen.compile import Cubin, Resources
from kgen.errors import CompileError
from kgen.finals import Finalist, choose, hold
from kgen.jobs import Outcome, Result
from kgen.shots import RESOLUTION

LOCAL = replace(H200, ordinal=0)


def program(**fields):
    return plan(PROBLEM, replace(CONFIG, **fields), LOCAL)


def shared_bytes(one):
    return max(kernel.shared_bytes for kernel in one.kernels)


TWO, THREE = program(stages=2), program(stages=3)  # whose buffers differ in number
assert shared_bytes(TWO) < shared_bytes(THREE)
LIKE_TWO = program(stages=2, sigmoid="tanh")
assert shared_bytes(LIKE_TWO) == shared_bytes(TWO)


def finalist(of, us, *, outcome=Outcome.OK, seed=0):
    shots_us = us * np.random.default_rng(seed).normal(1, 0.002, 100)
    return Finalist(of, Result(outcome, shots_us=tuple(shots_us) if outcome is Outcome.OK else ()))


def winners(*finalists):
    return [one.program for one in choose(finalists)]


def test_the_fastest_wins_where_times_can_be_told_apart():
    assert winners(finalist(TWO, 102.0), finalist(THREE, 100.0)) == [THREE]
    assert winners(finalist(TWO, 100.0)) == [TWO]


def test_of_those_that_tie_the_one_with_less_shared_memory_wins_whichever_was_faster():
    for us in (100.0 * (1 - RESOLUTION / 2), 100.0, 100.0 * (1 + RESOLUTION / 2)):
        for order in (1, -1):
            both = [finalist(TWO, us, seed=1), finalist(THREE, 100.0, seed=2)][::order]
            assert winners(*both) == [TWO, THREE]


def test_then_the_first_by_its_fields():
    for order in (1, -1):
        both = [finalist(TWO, 100.0, seed=1), finalist(LIKE_TWO, 100.1, seed=2)][::order]
        first, second = winners(*both)
        assert (first.config.sigmoid, second.config.sigmoid) == ("exp2", "tanh")


def test_those_that_fail_neither_win_nor_tie():
    wrong = finalist(TWO, 50.0, outcome=Outcome.WRONG_ANSWER)
    assert winners(wrong, finalist(THREE, 100.0)) == [THREE]
    assert winners(wrong) == []


class Gpu:
    """Times all jobs alike, unless one of those that take turns is ``fatal``; ``asked`` are each call's configs."""

    def __init__(self, **fatal):
        self.fatal, self.asked = fatal, []

    def run_together(self, jobs, timeout_s):
        configs = [job.config for job in jobs]
        self.asked.append(configs)
        for config in configs:
            for name, (value, outcome) in self.fatal.items():
                if getattr(config, name) == value:
                    return tuple(Result(outcome, "all of them") for _ in jobs)
        return tuple(Result(Outcome.OK, shots_us=(10.0,) * 10) for _ in jobs)


def compiled(of, error=None):
    future = Future()
    if error is None:
        future.set_result(Cubin(b"", of.arch, "", {"kernel": Resources(64, 0, 0, 0, 0)}, "", 0.1))
    else:
        future.set_exception(error)
    return of, future


def outcomes(held):
    return [one.result.outcome for one in held]


def test_finalists_take_turns_in_one_job_and_one_that_does_not_compile_takes_no_part():
    gpu = Gpu()
    held = hold([compiled(TWO), compiled(LIKE_TWO, CompileError("no")), compiled(THREE)], LOCAL, gpu, 60)
    assert gpu.asked == [[TWO.config, THREE.config]]
    assert outcomes(held) == [Outcome.OK, Outcome.COMPILE_FAILED, Outcome.OK]
    assert [one.predicted_us is None for one in held] == [False, True, False]
    assert hold([compiled(TWO, CompileError("no"))], LOCAL, gpu, 60)[0].result.reason == "no"


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.TIMEOUT])
def test_one_that_ends_the_process_is_found_and_the_others_are_timed_without_it(outcome):
    gpu = Gpu(stages=(3, outcome))
    held = hold([compiled(TWO), compiled(THREE), compiled(LIKE_TWO)], LOCAL, gpu, 60)
    assert outcomes(held) == [Outcome.OK, outcome, Outcome.OK]
    assert gpu.asked[-1] == [TWO.config, LIKE_TWO.config] and len(gpu.asked) == 5
    alone = Gpu(stages=(3, outcome))
    assert outcomes(hold([compiled(THREE)], LOCAL, alone, 60)) == [outcome] and len(alone.asked) == 1
