from __future__ import annotations

import time

import numpy as np
import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.cases import cached_case
from kgen.devices import find_device
from kgen.errors import VerificationError
from kgen.measure import measure, measure_together, rotation
from kgen.shots import RESOLUTION, ROUNDS, tied

MIB = 1 << 20


@pytest.mark.parametrize("set_bytes", [1 << 17, MIB, 7 * MIB, 50 * MIB, 300 * MIB])
def test_rotated_sets_exceed_the_cache_twice(set_bytes):
    copies = rotation(set_bytes, 60 * MIB)
    assert copies >= 2
    assert copies * set_bytes > 120 * MIB
    assert copies == 2 or (copies - 1) * set_bytes <= 120 * MIB


def test_tiny_sets_are_limited_in_number():
    assert rotation(64, 60 * MIB) == 1024


def loaded(problem):
    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram
    from kgen.render import render

    device = find_device("cuda:0")
    program = plan(problem, default_config(problem, device), device)
    return LoadedProgram(program, compile_cubin(render(program), program.arch))


SMALL = Problem(batch=1, height=7, width=7, channels=64)
LARGE = Problem(batch=64, height=28, width=28, channels=128)


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
    assert len(given_up.shots_us) == ROUNDS and given_up.median_us == pytest.approx(whole.median_us, rel=0.2)


@pytest.mark.gpu
def test_of_programs_measured_together_the_wrong_one_is_told_and_the_others_are_timed():
    case, right = cached_case(SMALL), loaded(SMALL)
    wrong = loaded(Problem(batch=1, height=7, width=7, channels=64, activation="relu"))
    first, second, third = measure_together(case, [right, wrong, right])
    assert isinstance(second, VerificationError)
    assert len(first[0].shots_us) == len(third[0].shots_us) > ROUNDS
    assert tied(np.array([first[0].shots_us, third[0].shots_us]).T) == (True, True)
