from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.buffers import Buffers
from kgen.cases import cached_case
from kgen.devices import find_device
from kgen.errors import VerificationError
from kgen.measure import _Stage, measure, measure_together, rotation
from kgen.shots import RESOLUTION, ROUNDS, tied
from kgen.timing import Replay, Timing

MIB = 1 << 20
SMALL = Problem(batch=1, height=7, width=7, channels=64)
LARGE = Problem(batch=64, height=28, width=28, channels=128)


@pytest.mark.parametrize("set_bytes", [1 << 17, MIB, 7 * MIB, 50 * MIB, 300 * MIB])
def test_rotated_sets_exceed_the_cache_twice(set_bytes):
    copies = rotation(set_bytes, 60 * MIB)
    assert copies >= 2
    assert copies * set_bytes > 120 * MIB
    assert copies == 2 or (copies - 1) * set_bytes <= 120 * MIB


def test_tiny_sets_are_limited_in_number():
    assert rotation(64, 60 * MIB) == 1024


class Stream:
    def synchronize(self):
        pass


def stage_of(case, monkeypatch):
    """A stage in the host's memory, and a function that makes a replay of what a kernel writes there."""
    monkeypatch.setattr("kgen.measure._await_current_stream", lambda: None)
    stage = object.__new__(_Stage)
    stage._buffers, stage.stream = Buffers(np, case, 0), Stream()
    truth = case.reference[case.index].astype(np.float16).view(np.uint16).ravel()

    def writes(y=truth, beside=False):
        def start(stream):
            stage._buffers.y()[:] = y
            if beside:
                stage._buffers._y._after[0] = 0

        return Replay(start, 1)

    return stage, writes


def test_a_program_that_writes_out_of_bounds_is_not_blamed_on_the_next(monkeypatch):
    stage, writes = stage_of(cached_case(SMALL), monkeypatch)
    assert 0 < stage.verify(writes()).output < 1e-3
    with pytest.raises(VerificationError, match="next to y"):
        stage.verify(writes(beside=True))
    assert 0 < stage.verify(writes()).output < 1e-3


def test_of_programs_measured_together_each_has_its_time_or_its_error(monkeypatch):
    """One is wrong at once, one only after it was timed."""
    cupy = pytest.importorskip("cupy")
    stage, writes = stage_of(cached_case(SMALL), monkeypatch)
    replays = {"right": writes(), "wrong": writes(y=0), "racy": writes()}
    verified = []

    def verify(replay):
        verified.append(replay)
        if replay is replays["wrong"] or (replay is replays["racy"] and verified.count(replay) == 2):
            raise VerificationError("it is wrong")
        return 0.001

    def prepare(program):
        stage.verify(replays[program.name])
        return replays[program.name]

    def take_turns(timed, *_, **how):
        assert timed == [replays["right"], replays["racy"]] and how == {"target": 0.1, "give_up_us": 7.0}
        return Timing((1.0,), 1), Timing((2.0,), 1)

    stage.verify, stage.prepare = verify, prepare
    monkeypatch.setattr("kgen.measure._Stage", lambda case, programs: stage)
    monkeypatch.setattr("kgen.measure.time_interleaved", take_turns)
    monkeypatch.setattr(cupy.cuda, "Device", lambda ordinal: nullcontext())
    programs = [SimpleNamespace(name=name, ordinal=0) for name in ("wrong", "right", "racy")]
    wrong, right, racy = measure_together(cached_case(SMALL), programs, target=0.1, give_up_us=7.0)
    assert isinstance(wrong, VerificationError) and isinstance(racy, VerificationError)
    assert right == (Timing((1.0,), 1), 0.001)
    assert [str(one) for one in measure_together(cached_case(SMALL), programs[:1])] == ["it is wrong"]


def loaded(problem):
    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram
    from kgen.render import render

    device = find_device("cuda:0")
    program = plan(problem, default_config(problem, device), device)
    return LoadedProgram(program, compile_cubin(render(program), program.arch))


@pytest.mark.gpu
@pytest.mark.parametrize("problem", [SMALL, LARGE])
def test_a_program_is_timed_in_bounded_time(problem):
    program, case = loaded(problem), cached_case(problem)
    measure(case, program)
    start = time.perf_counter()
    timing, errors = measure(case, program)
    assert time.perf_counter() - start < 5
    assert 0.5 < timing.p20_us <= timing.median_us <= timing.p80_us < 10_000
    assert timing.p80_us < 1.5 * timing.p20_us
    assert len(timing.shots_us) >= ROUNDS
    assert timing.launches * timing.median_us > 500
    assert 0 < errors.output <= case.bound.output


@pytest.mark.gpu
def test_more_images_take_longer():
    small, large = (measure(cached_case(problem), loaded(problem))[0] for problem in (SMALL, LARGE))
    assert large.median_us > 4 * small.median_us


@pytest.mark.gpu
def test_a_wrong_program_is_not_timed():
    other = Problem(batch=1, height=7, width=7, channels=64, activation="relu")
    with pytest.raises(VerificationError):
        measure(cached_case(SMALL), loaded(other))


@pytest.mark.gpu
@pytest.mark.parametrize("problem", [SMALL, LARGE])
def test_a_candidate_is_timed_until_its_median_is_known_and_no_further_when_slow(problem):
    program, case = loaded(problem), cached_case(problem)
    whole, _ = measure(case, program)
    start = time.perf_counter()
    ((timing, errors),) = measure_together(case, [program], target=RESOLUTION, give_up_us=2 * whole.median_us)
    assert time.perf_counter() - start < 1
    assert timing.median_us == pytest.approx(whole.median_us, rel=0.1)
    assert 0 < errors.output <= case.bound.output
    assert ROUNDS < len(timing.shots_us) <= len(whole.shots_us)
    ((given_up, _),) = measure_together(case, [program], target=RESOLUTION, give_up_us=whole.median_us / 2)
    assert ROUNDS <= len(given_up.shots_us) < 2 * ROUNDS  # unless the clock was throttled
    assert given_up.median_us == pytest.approx(whole.median_us, rel=0.2)


@pytest.mark.gpu
def test_of_programs_measured_together_the_wrong_one_is_told_and_the_others_are_timed():
    case, right = cached_case(SMALL), loaded(SMALL)
    wrong = loaded(Problem(batch=1, height=7, width=7, channels=64, activation="relu"))
    first, second, third = measure_together(case, [right, wrong, right])
    assert isinstance(second, VerificationError)
    assert len(first[0].shots_us) == len(third[0].shots_us) > ROUNDS
    assert tied(np.array([first[0].shots_us, third[0].shots_us]).T) == (True, True)
