"""Measuring: programs verified, timed in a CUDA graph that rotates through more inputs than the L2 cache holds.

Each launch of the graph reads and writes another set of x and y, which together exceed the L2 cache twice: activations
come from DRAM ("cold"), while the weights, which all launches share, may stay in L2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kgen.buffers import Buffers
from kgen.cases import Case, Errors
from kgen.errors import KgenError, VerificationError
from kgen.launch import LoadedProgram
from kgen.timing import BUDGET_S, WARM_UP_S, Replay, Timing, long_enough, time_interleaved

_CANDIDATE_WARM_UP_S = 0.01  # of a GPU that times one program after the other
_MOST_COPIES = 1024

A = TypeVar("A")
T = TypeVar("T")


def rotation(set_bytes: int, l2_bytes: int) -> int:
    """How many sets of x and y a timing rotates through, so that they exceed the L2 cache twice.

    At most 1024: sets smaller than some 120 KB are not quite cold. ``set_bytes`` are those of one x and one y.
    """
    return max(2, min(_MOST_COPIES, 2 * l2_bytes // set_bytes + 1))


def measure(case: Case, loaded: LoadedProgram) -> tuple[Timing, Errors]:
    """:func:`measure_together` for one program.

    Raises:
        VerificationError: an output is wrong, before or after.
        LaunchError: the driver refuses a launch.
    """
    (measured,) = measure_together(case, [loaded])
    if isinstance(measured, KgenError):
        raise measured
    return measured


def measure_together(
    case: Case, programs: Sequence[LoadedProgram], *, target: float = 0.0, give_up_us: float = math.inf
) -> list[tuple[Timing, Errors] | KgenError]:
    """Verify programs of the case's problem, time those that pass turn by turn, and verify what the launches wrote.

    All outputs are verified before and after; what is wrong with a program is returned in the place of its time. Timing
    ends as in :func:`kgen.timing.time_interleaved`.
    """
    import cupy

    with cupy.cuda.Device(programs[0].ordinal):
        stage = _Stage(case, programs)
        results: dict[int, tuple[Timing, Errors] | KgenError] = {}
        replays: dict[int, Replay] = {}
        for at, program in enumerate(programs):
            prepared = _attempt(stage.prepare, program)
            if isinstance(prepared, KgenError):
                results[at] = prepared
            else:
                replays[at] = prepared
        for at, timing in zip(replays, stage.time(list(replays.values()), target, give_up_us), strict=True):
            errors = _attempt(stage.verify, replays[at])
            results[at] = errors if isinstance(errors, KgenError) else (timing, errors)
        return [results[at] for at in range(len(programs))]


def _attempt(action: Callable[[A], T], argument: A) -> T | KgenError:
    """What ``action`` returns, or raises where that is kgen's."""
    try:
        return action(argument)
    except KgenError as error:
        return error


class _Stage:
    """Buffers and a stream in which programs of one case are verified and timed."""

    def __init__(self, case: Case, programs: Sequence[LoadedProgram]) -> None:
        import cupy

        self._batch = case.problem.batch
        copies = rotation(case.problem.x.bytes + case.problem.y.bytes, programs[0].program.device.l2_bytes)
        self._buffers = Buffers(cupy, case, max(one.program.workspace_bytes for one in programs), copies)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        _await_current_stream()

    def prepare(self, loaded: LoadedProgram) -> Replay:
        """A replay that lasts long enough to be timed; VerificationError when an output that it writes is wrong."""

        def captured(repeats: int) -> Replay:
            return capture(loaded, self._buffers, self._batch, repeats, self.stream)

        replay = long_enough(captured, self.stream)
        self.verify(replay)
        return replay

    def time(self, replays: Sequence[Replay], target: float, give_up_us: float) -> tuple[Timing, ...]:
        """Their times, of replays that take turns."""
        if not replays:
            return ()
        warm_up_s = _CANDIDATE_WARM_UP_S if target else WARM_UP_S
        budget_s = BUDGET_S * len(replays)
        return time_interleaved(replays, self.stream, budget_s, warm_up_s, target=target, give_up_us=give_up_us)

    def verify(self, replay: Replay) -> Errors:
        """Errors of the outputs that a replay writes; VerificationError when one is wrong, or something else changed.

        That is then undone, so that the next program is not blamed for it.
        """
        self._buffers.blank()
        _await_current_stream()
        replay.start(self.stream)
        self.stream.synchronize()
        try:
            return self._buffers.check()
        except VerificationError:
            self._buffers.reset()
            _await_current_stream()
            raise


def _await_current_stream() -> None:
    """What fills buffers runs on the current stream, which a non-blocking one does not wait for."""
    from cupy.cuda import get_current_stream

    get_current_stream().synchronize()


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
