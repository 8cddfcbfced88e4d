from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.cases import cached_case
from kgen.devices import find_device
from kgen.errors import VerificationError
from kgen.measure import Replay, measure, measure_briefly, record_node, rotation, time_interleaved

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
    assert timing.replays >= 5
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
def test_interleaved_replays_are_timed_each_by_itself():
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    loop = "long long start = clock64(); while (clock64() - start < cycles) {}"
    spin = cupy.RawKernel(f'extern "C" __global__ void spin(long long cycles) {{ {loop} }}', "spin")

    def replay(cycles):
        def start(on):
            with on:
                for _ in range(4):
                    spin((1,), (1,), (cycles,))

        return Replay(start, 4)

    short, long = time_interleaved([replay(400_000), replay(1_200_000)], stream)
    assert short.replays == long.replays
    assert long.median_us == pytest.approx(3 * short.median_us, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("problem", [SMALL, LARGE])
def test_a_brief_measurement_agrees_and_gives_up_on_slow_programs(problem):
    program, case = loaded(problem), cached_case(problem)
    timing, _ = measure(case, program)
    start = time.perf_counter()
    brief, errors = measure_briefly(case, program, 2 * timing.median_us)
    assert time.perf_counter() - start < 1
    assert brief.median_us == pytest.approx(timing.median_us, rel=0.1) and brief.replays >= 5
    assert 0 < errors.output <= case.bound.output
    given_up, _ = measure_briefly(case, program, timing.median_us / 2)
    assert given_up.replays == 1 and given_up.median_us == pytest.approx(timing.median_us, rel=0.5)


def test_a_node_of_the_graph_records_an_event_not_an_order(monkeypatch):
    pytest.importorskip("cupy_backends")
    asked = []
    record = {("cuEventRecordWithFlags", 3): lambda *arguments: asked.append(arguments) or 0}
    monkeypatch.setattr("kgen.measure.driver_function", lambda *name: record[name])
    record_node(SimpleNamespace(ptr=5), SimpleNamespace(ptr=6))
    assert asked == [(5, 6, 1)]
