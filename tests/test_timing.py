"""Timing: what is queued and sampled in which order, when it ends, and real replays on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kgen import timing
from kgen.shots import LEAST, MOST, ROUNDS
from kgen.timing import Replay, Timing, record_node, time_interleaved

LAUNCHES = 10


class FakeGpu:
    """A stream on which replays of ``LAUNCHES`` launches take ``us(number, shot)``; ``log`` says what was done.

    Work is done when it is queued, so that the clock is the one at which the shots were queued.
    """

    def __init__(self, us, clock=lambda shot: 1980):
        self.us, self.clock = us, clock
        self.now_us, self.shots, self.log = 0.0, 0, []

    def replay(self, number):
        def start(stream):
            self.now_us += self.us(number, self.shots) * LAUNCHES
            self.shots += 1
            self.log.append(number)

        return Replay(start, LAUNCHES)

    def synchronize(self):
        pass


@pytest.fixture
def gpu(monkeypatch):
    cuda = pytest.importorskip("cupy.cuda")

    def make(us, **more):
        fake = FakeGpu(us, **more)

        class Event:
            def record(self, stream):
                self.at_us, self.shot = fake.now_us, fake.shots

            def synchronize(self):
                fake.awaited = self

        monkeypatch.setattr(cuda, "Event", Event)
        monkeypatch.setattr(cuda, "get_elapsed_time", lambda start, end: (end.at_us - start.at_us) / 1e3)
        monkeypatch.setattr("cupy_backends.cuda.api.runtime.getDevice", lambda: 0)
        monkeypatch.setattr(timing, "sm_clock", lambda ordinal: lambda: fake.clock(fake.awaited.shot))
        return fake

    return make


def test_replays_take_turns_and_each_has_its_own_times(gpu):
    fake = gpu(lambda number, shot: (100.0, 300.0)[number])
    short, long = time_interleaved([fake.replay(0), fake.replay(1)], fake, budget_s=1.0)
    assert (short.median_us, long.median_us) == (100.0, 300.0)
    assert len(short.shots_us) == len(long.shots_us) == MOST
    assert fake.log == [0, 1] * (len(fake.log) // 2)
    assert short.clock_mhz == 1980


def test_slow_replays_are_timed_ten_times_however_small_the_budget(gpu):
    fake = gpu(lambda number, shot: 1e5)
    (slow,) = time_interleaved([fake.replay(0)], fake, budget_s=0.1)
    assert len(slow.shots_us) == LEAST and fake.shots == LEAST + 1  # and one to warm up


def test_a_candidate_is_timed_until_its_median_is_known(gpu):
    fake = gpu(lambda number, shot: 100 + shot % 3 * 0.1)
    (steady,) = time_interleaved([fake.replay(0)], fake, target=0.005)
    assert ROUNDS < len(steady.shots_us) < 30
    fake = gpu(lambda number, shot: 100 + shot % 2 * 10)
    (noisy,) = time_interleaved([fake.replay(0)], fake, target=0.005)
    assert len(noisy.shots_us) == MOST


def test_a_candidate_that_takes_longer_than_the_limit_has_five_shots(gpu):
    fake = gpu(lambda number, shot: 100.0 + shot % 3)
    (slow,) = time_interleaved([fake.replay(0)], fake, target=1e-6, give_up_us=50.0)
    assert len(slow.shots_us) == ROUNDS


def test_throttled_shots_are_repeated_and_do_not_count(gpu):
    fake = gpu(
        lambda number, shot: 200.0 if shot % 7 == 0 else 100.0, clock=lambda shot: 990 if shot % 7 == 0 else 1980
    )
    (timed,) = time_interleaved([fake.replay(0)], fake, budget_s=1.0)
    assert set(timed.shots_us) == {100.0} and len(timed.shots_us) >= MOST and timed.clock_mhz == 1980


def test_an_unknown_clock_throttles_nothing(gpu):
    fake = gpu(lambda number, shot: 100.0 + shot % 2, clock=lambda shot: 0)
    (timed,) = time_interleaved([fake.replay(0)], fake)
    assert timed.clock_mhz is None and len(timed.shots_us) == MOST


def test_spread_is_that_of_the_shots():
    times = Timing(tuple(float(us) for us in range(101)), LAUNCHES)
    assert (times.p20_us, times.median_us, times.p80_us) == (20.0, 50.0, 80.0)


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
    assert len(short.shots_us) == len(long.shots_us)
    assert long.median_us == pytest.approx(3 * short.median_us, rel=0.1)
    assert short.clock_mhz is None or 300 < short.clock_mhz < 4000


def test_a_node_of_the_graph_records_an_event_not_an_order(monkeypatch):
    pytest.importorskip("cupy_backends")
    asked = []
    record = {("cuEventRecordWithFlags", 3): lambda *arguments: asked.append(arguments) or 0}
    monkeypatch.setattr("kgen.timing.driver_function", lambda *name: record[name])
    record_node(SimpleNamespace(ptr=5), SimpleNamespace(ptr=6))
    assert asked == [(5, 6, 1)]
