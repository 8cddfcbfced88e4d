"""Timing: CUDA events around replays of a CUDA graph that rotates through more inputs than the L2 cache holds.

A graph holds many launches, so that what it costs to start one does not count. Each launch reads and writes another
set of x and y, which together exceed the L2 cache twice: activations come from DRAM ("cold"), while the weights, which
all launches share, may stay in L2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgen.buffers import Buffers
from kgen.cases import Case, Errors
from kgen.launch import LoadedProgram, driver_function
from kgen.verify import verify_on_gpu

_BUDGET_S = 0.15
_WARM_UP_S = 0.05  # enough for an idle GPU to raise its clocks
_BRIEF_BUDGET_S, _BRIEF_WARM_UP_S = 0.02, 0.01  # of a GPU that times one program after the other
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 100
_LEAST_REPLAY_US = 1000.0  # starting a graph costs a few microseconds, which is then lost in the noise
_MOST_COPIES = 1024
_EXTERNAL = 1  # CU_EVENT_RECORD_EXTERNAL


@dataclass(frozen=True)
class Timing:
    """Time of one launch in microseconds, over ``replays`` replays of a graph with ``launches`` launches each."""

    median_us: float
    p20_us: float
    p80_us: float
    replays: int
    launches: int


@dataclass(frozen=True)
class Replay:
    """A captured sequence of launches: ``start`` queues it on the stream (a CuPy stream) it is given."""

    start: Callable[[Any], None]
    launches: int


def rotation(set_bytes: int, l2_bytes: int) -> int:
    """How many sets of x and y a timing rotates through, so that they exceed the L2 cache twice.

    At most 1024: sets smaller than some 120 KB are not quite cold. ``set_bytes`` are those of one x and one y.
    """
    return max(2, min(_MOST_COPIES, 2 * l2_bytes // set_bytes + 1))


def measure(case: Case, loaded: LoadedProgram) -> tuple[Timing, Errors]:
    """Verify a program, time it, and verify every output of the timed launches.

    Raises:
        VerificationError: an output is wrong, before or after.
        LaunchError: the driver refuses a launch.
    """
    import cupy

    verify_on_gpu(case, loaded)
    with cupy.cuda.Device(loaded.ordinal):
        copies = rotation(case.problem.x.bytes + case.problem.y.bytes, loaded.program.device.l2_bytes)
        buffers = Buffers(cupy, case, loaded.program.workspace_bytes, copies)
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        replay = long_enough(lambda repeats: capture(loaded, buffers, case.problem.batch, repeats, stream), stream)
        (timing,) = time_interleaved([replay], stream)
        buffers.blank()
        cupy.cuda.get_current_stream().synchronize()
        replay.start(stream)
        stream.synchronize()
        return timing, buffers.check()


def measure_briefly(case: Case, loaded: LoadedProgram, give_up_us: float) -> tuple[Timing, Errors]:
    """:func:`measure` in a tenth of the time: every output is verified once, before a few shots are timed.

    A program that takes longer than ``give_up_us`` is timed by one replay.

    Raises:
        VerificationError: an output is wrong.
        LaunchError: the driver refuses a launch.
    """
    import cupy

    with cupy.cuda.Device(loaded.ordinal):
        copies = rotation(case.problem.x.bytes + case.problem.y.bytes, loaded.program.device.l2_bytes)
        buffers = Buffers(cupy, case, loaded.program.workspace_bytes, copies)
        buffers.blank()
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        once = capture(loaded, buffers, case.problem.batch, 1, stream)
        once.start(stream)
        stream.synchronize()
        errors = buffers.check()
        cupy.cuda.get_current_stream().synchronize()
        took_us = elapsed_us(once, stream) / once.launches
        if took_us > give_up_us:
            return Timing(took_us, took_us, took_us, 1, once.launches), errors
        replay = long_enough(lambda repeats: capture(loaded, buffers, case.problem.batch, repeats, stream), stream)
        (timing,) = time_interleaved([replay], stream, _BRIEF_BUDGET_S, _BRIEF_WARM_UP_S)
        return timing, errors


def capture(loaded: LoadedProgram, buffers: Buffers, batch: int, repeats: int, stream: Any) -> Replay:
    """A graph that runs the program on each set of buffers in turn, ``repeats`` times."""
    arguments = [buffers.pointers(copy) for copy in range(buffers.copies)] * repeats
    stream.begin_capture()
    try:
        for pointers in arguments:
            loaded.launch(*pointers, batch, stream.ptr)
    finally:
        graph = stream.end_capture()
    return Replay(lambda on: graph.launch(stream=on), len(arguments))


def long_enough(capture_repeats: Callable[[int], Replay], stream: Any) -> Replay:
    """A capture that repeats its launches often enough to last a millisecond."""
    replay = capture_repeats(1)
    replay.start(stream)  # the first launch of a graph uploads it
    took_us = elapsed_us(replay, stream)
    repeats = int(np.ceil(_LEAST_REPLAY_US / max(took_us, 1.0)))
    return replay if repeats == 1 else capture_repeats(repeats)


def time_interleaved(
    replays: Sequence[Replay], stream: Any, budget_s: float = _BUDGET_S, warm_up_s: float = _WARM_UP_S
) -> tuple[Timing, ...]:
    """Time several replays turn by turn, so that whatever disturbs the GPU disturbs all of them alike.

    Warms up first, for ``warm_up_s``. Every replay runs 100 times, fewer (at least 5) when that would exceed
    ``budget_s``.
    """
    from cupy.cuda import Event, get_elapsed_time

    round_us = 0.0
    warm_us = 0.0
    while warm_us < warm_up_s * 1e6:
        round_us = sum(elapsed_us(replay, stream) for replay in replays)
        warm_us += max(round_us, 1.0)
    rounds = max(_LEAST_ROUNDS, min(_MOST_ROUNDS, int(budget_s * 1e6 / round_us)))
    marks = [[(Event(), Event()) for _ in replays] for _ in range(rounds)]
    for row in marks:
        for (start, end), replay in zip(row, replays, strict=True):
            start.record(stream)
            replay.start(stream)
            end.record(stream)
    stream.synchronize()
    times_us = np.array([[get_elapsed_time(start, end) * 1e3 for start, end in row] for row in marks])
    return tuple(_timing(column, replay) for column, replay in zip(times_us.T, replays, strict=True))


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


def _timing(times_us: np.ndarray[Any, Any], replay: Replay) -> Timing:
    p20, median, p80 = np.percentile(times_us / replay.launches, (20, 50, 80))
    return Timing(float(median), float(p20), float(p80), len(times_us), replay.launches)
