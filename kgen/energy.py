"""Energy of a launch, by the counter of NVML (the driver's management library) of what the whole GPU has used.

The counter counts millijoules, but moves in steps, at intervals that NVML does not tell, so a launch of microseconds is
read off many: the GPU is kept busy with replays, which rotate through as many inputs as a timing does; energy and
launches are counted from one step of the counter to another one, at least 0.2 s later. So its steps do not matter, and
what is off is a replay at either end, a millisecond or a few. It is the energy of the whole board, with what it uses
when idle and for whatever else runs on it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from kgen.buffers import Buffers
from kgen.cases import Case
from kgen.devices import Device
from kgen.errors import DeviceError
from kgen.launch import LoadedProgram
from kgen.measure import capture, rotation
from kgen.nvml import gpu
from kgen.timing import long_enough

_LEAST_S = 0.2
_WARM_UP_S = 0.1  # a counter lags what runs
_PATIENCE_S = 2.0
_AHEAD = 4  # replays that are queued, so that the GPU never waits for the next one


def check_energy(device: Device) -> None:
    """Raise DeviceError unless the energy of launches on ``device`` can be measured."""
    if device.ordinal is None:
        raise DeviceError(
            f"energy is measured on a GPU of this machine only, but {device.name} is a datasheet's; drop it from "
            "--objective, or pass --device cuda:0"
        )
    if find_spec("pynvml") is None:
        raise DeviceError("energy needs nvidia-ml-py, but it is not installed; pip install nvidia-ml-py")
    _counter(device.ordinal)()


def measure_energy(case: Case, loaded: LoadedProgram) -> float:
    """Joules of one launch.

    Raises:
        DeviceError: the GPU has no counter of its energy, or it does not move.
        LaunchError: the driver refuses a launch.
    """
    import cupy

    with cupy.cuda.Device(loaded.ordinal):
        copies = rotation(case.problem.x.bytes + case.problem.y.bytes, loaded.program.device.l2_bytes)
        buffers = Buffers(cupy, case, loaded.program.workspace_bytes, copies)
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        replay = long_enough(lambda repeats: capture(loaded, buffers, case.problem.batch, repeats, stream), stream)
        queued: deque[Any] = deque()
        ended = 0

        def step() -> int:
            nonlocal ended
            while len(queued) < _AHEAD:
                replay.start(stream)
                queued.append(stream.record())
            queued.popleft().synchronize()
            ended += replay.launches
            return ended

        found = joules_per_launch(step, _counter(loaded.ordinal))
        stream.synchronize()
        return found


def joules_per_launch(
    step: Callable[[], int], read_j: Callable[[], float], clock: Callable[[], float] = time.monotonic
) -> float:
    """Joules of one launch; ``step`` keeps the GPU busy for a moment and returns how many launches have ended so far.

    ``read_j`` reads the counter, in joules, and ``clock`` tells seconds.

    Raises:
        DeviceError: the counter stands still.
    """
    _busy_for(_WARM_UP_S, step, clock)
    first_j, first = _next_move(step, read_j, clock)
    _busy_for(_LEAST_S, step, clock)
    last_j, last = _next_move(step, read_j, clock)
    return (last_j - first_j) / (last - first)


def _busy_for(seconds: float, step: Callable[[], int], clock: Callable[[], float]) -> None:
    end_s = clock() + seconds
    while clock() < end_s:
        step()


def _next_move(step: Callable[[], int], read_j: Callable[[], float], clock: Callable[[], float]) -> tuple[float, int]:
    """The counter when it has moved, and the launches that have ended by then."""
    before_j, end_s = read_j(), clock() + _PATIENCE_S
    while clock() < end_s:
        launches = step()
        now_j = read_j()
        if now_j != before_j:
            return now_j, launches
    raise DeviceError(
        f"a GPU's energy counter must move while it works, but it stood at {before_j:g} J for {_PATIENCE_S:g} s; "
        "measure without --objective energy"
    )


def _counter(ordinal: int) -> Callable[[], float]:
    """Reads what the GPU has used since its driver was loaded, in joules."""
    import pynvml

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
        except pynvml.NVMLError as error:
            raise _unreadable(ordinal, error) from error

    try:
        handle = gpu(ordinal)
    except pynvml.NVMLError as error:
        raise _unreadable(ordinal, error) from error
    return read


def _unreadable(ordinal: int, error: Exception) -> DeviceError:
    return DeviceError(
        f"energy needs a GPU whose driver counts it, but NVML does not for cuda:{ordinal} ({error}); drop it from "
        "--objective"
    )
