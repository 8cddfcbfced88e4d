"""Timing: CUDA events around replays of a CUDA graph, which holds many launches.

What it costs to start a launch from the host does not count then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kgen.launch import driver_function
from kgen.nvml import sm_clock
from kgen.shots import LEAST, MOST, Shots, collect

BUDGET_S = 0.15
WARM_UP_S = 0.05
"""Enough for an idle GPU to raise its clocks."""
_LEAST_REPLAY_US = 1000.0  # starting a graph costs a few microseconds, which is then lost in the noise
_EXTERNAL = 1  # CU_EVENT_RECORD_EXTERNAL


@dataclass(frozen=True)
class Timing:
    """Times of one launch in microseconds, a shot for each replay of a graph with ``launches`` launches.

    ``clock_mhz`` is the SM clock's median, None where it is not known. Shots of programs that were timed together
    correspond: the nth were taken one after the other.
    """

    shots_us: tuple[float, ...]
    launches: int
    clock_mhz: int | None = None

    @property
    def median_us(self) -> float:
        return self._percentile(50)

    @property
    def p20_us(self) -> float:
        return self._percentile(20)

    @property
    def p80_us(self) -> float:
        return self._percentile(80)

    def _percentile(self, percent: int) -> float:
        return float(np.percentile(self.shots_us, percent))


@dataclass(frozen=True)
class Replay:
    """A captured sequence of launches: ``start`` queues it on the stream (a CuPy stream) it is given."""

    start: Callable[[Any], None]
    launches: int


def long_enough(capture_repeats: Callable[[int], Replay], stream: Any) -> Replay:
    """A capture that repeats its launches often enough to last a millisecond."""
    replay = capture_repeats(1)
    replay.start(stream)  # the first launch of a graph uploads it
    took_us = elapsed_us(replay, stream)
    repeats = int(np.ceil(_LEAST_REPLAY_US / max(took_us, 1.0)))
    return replay if repeats == 1 else capture_repeats(repeats)


def time_interleaved(
    replays: Sequence[Replay],
    stream: Any,
    budget_s: float = BUDGET_S,
    warm_up_s: float = WARM_UP_S,
    *,
    target: float = 0.0,
    give_up_us: float = math.inf,
) -> tuple[Timing, ...]:
    """Time several replays turn by turn, so that whatever disturbs the GPU disturbs all of them alike.

    Warms up first, for ``warm_up_s``. Then every replay runs 100 times: fewer, at least 10, when that would exceed
    ``budget_s``, and no more once each one's median is known to ``target`` of itself or, after at least 5 shots, is
    more than ``give_up_us`` a launch. Rounds in which the SM clock was throttled are repeated, as often at most
    (:mod:`kgen.shots`).
    """
    from cupy_backends.cuda.api.runtime import getDevice

    clock_mhz = sm_clock(getDevice())
    round_us = warm_us = 0.0
    while warm_us < warm_up_s * 1e6:
        round_us = sum(elapsed_us(replay, stream) for replay in replays)
        warm_us += max(round_us, 1.0)
    most = max(LEAST, min(MOST, int(budget_s * 1e6 / round_us)))
    take = partial(_take, replays, stream, clock_mhz)
    shots = collect(take, target=target, give_up_us=give_up_us, most=most)
    return tuple(
        Timing(tuple(times_us.tolist()), replay.launches, round(float(np.median(clocks_mhz))) or None)
        for times_us, clocks_mhz, replay in zip(shots.times_us.T, shots.clocks_mhz.T, replays, strict=True)
    )


def _take(replays: Sequence[Replay], stream: Any, clock_mhz: Callable[[], int], rounds: int) -> Shots:
    """Rounds of shots, all queued before the first is awaited; the clock is sampled when a shot has begun."""
    from cupy.cuda import Event, get_elapsed_time

    marks = [[(Event(), Event()) for _ in replays] for _ in range(rounds)]
    for row in marks:
        for (start, end), replay in zip(row, replays, strict=True):
            start.record(stream)
            replay.start(stream)
            end.record(stream)
    clocks_mhz = [[_after(start, clock_mhz) for start, _ in row] for row in marks]
    stream.synchronize()
    times_us = np.array([[get_elapsed_time(start, end) * 1e3 for start, end in row] for row in marks])
    return Shots(times_us / [replay.launches for replay in replays], np.array(clocks_mhz))


def _after(event: Any, sample: Callable[[], int]) -> int:
    event.synchronize()
    return sample()


def elapsed_us(replay: Replay, stream: Any) -> float:
    """Microseconds that one replay takes, which is waited for."""
    from cupy.cuda import Event, get_elapsed_time

    start, end = Event(), Event()
    start.record(stream)
    replay.start(stream)
    end.record(stream)
    end.synchronize()
    return float(get_elapsed_time(start, end)) * 1e3


def record_node(event: Any, stream: Any) -> None:
    """Capture a node that records ``event`` whenever the graph runs, where a plain record would only order the work."""
    from cupy_backends.cuda.api import driver

    driver.check_status(driver_function("cuEventRecordWithFlags", 3)(event.ptr, stream.ptr, _EXTERNAL))
