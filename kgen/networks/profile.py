"""Where a call's time goes on the GPU: each layer between two events, in a graph of whole calls.

The graph holds calls in a row, each on images of its own, so that every layer finds the caches as the layers before
leave them. Its event-record nodes keep a kernel from beginning before the one before has ended, and take time
themselves; so the same calls without them are timed by turns, as what the layers' sum is to be held against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kgen.machine import Program, attainable_us, ideal_us
from kgen.measure import rotation
from kgen.networks.gpu import GpuNetwork, Step
from kgen.networks.images import random_images
from kgen.tensors import DTYPES
from kgen.timing import Replay, elapsed_us, record_node

REPLAYS = 50
_WARM_UP_REPLAYS = 10
_MOST_CALLS = 8


@dataclass(frozen=True)
class Times:
    """Microseconds of a layer or of all: measured, ideal, and attainable by the waterline with every tensor in DRAM."""

    us: float
    ideal_us: float
    attainable_us: float

    @property
    def efficiency(self) -> float:
        return self.ideal_us / self.us

    @property
    def attainable_efficiency(self) -> float:
        return self.ideal_us / self.attainable_us

    @property
    def lost_us(self) -> float:
        """Measured time above the attainable; less than 0 where tensors stay in L2."""
        return self.us - self.attainable_us


@dataclass(frozen=True)
class ProfiledLayer:
    """One layer of a call; its time is the median, of its kernels and the gap to the next layer."""

    name: str
    program: Program
    times: Times


@dataclass(frozen=True)
class Profile:
    """A call's layers in the order in which they run, and the median time of a whole call in microseconds."""

    layers: tuple[ProfiledLayer, ...]
    call_us: float

    @property
    def total(self) -> Times:
        """The sums over layers."""
        return Times(*(sum(column) for column in zip(*(astuple(layer.times) for layer in self.layers), strict=True)))

    @property
    def covered(self) -> float:
        """The layers' sum as a share of the whole call: above 1 by what events between the layers cost."""
        return self.total.us / self.call_us

    def share(self, layer: ProfiledLayer) -> float:
        """The layer's part of the sum."""
        return layer.times.us / self.total.us


def profile(model: GpuNetwork, batch: int, size: int, replays: int = REPLAYS) -> Profile:
    """Time the layers of calls on ``batch`` random images of size x size pixels, over ``replays`` replays.

    Raises:
        ProblemError: the images are too small.
        DeviceError: the GPU has too little free memory.
    """
    import cupy

    x = model.network.layers(batch, size, size)[0].problem.x
    with cupy.cuda.Device(model.device.ordinal):
        stream = cupy.cuda.Stream(non_blocking=True)
        logits = cupy.empty((batch, model.network.classes), DTYPES[model.network.dtype])
        host = random_images(x)
        images = [cupy.asarray(host) for _ in range(min(_MOST_CALLS, rotation(x.bytes, model.device.l2_bytes)))]
        calls = [model.steps(one, logits) for one in images]
        cupy.cuda.get_current_stream().synchronize()
        whole, marked = _capture(calls, stream, lambda call: None), _Marked(calls, stream)
        rounds = [
            (elapsed_us(whole, stream) / whole.launches, marked.layers_us(stream))
            for _ in range(_WARM_UP_REPLAYS + replays)
        ][_WARM_UP_REPLAYS:]
    call_us = float(np.median([one for one, _ in rounds]))
    layers_us = np.median(np.concatenate([rows for _, rows in rounds]), axis=0)
    return Profile(tuple(map(_layer, calls[0], layers_us)), call_us)


def _layer(step: Step, us: float) -> ProfiledLayer:
    program = step.program.program
    times = Times(float(us), ideal_us(program.problem.flops, program.device), attainable_us(program))
    return ProfiledLayer(step.layer.name, program, times)


class _Marked:
    """Calls in a graph with an event before the first layer of each, and after every layer."""

    def __init__(self, calls: Sequence[tuple[Step, ...]], stream: Any) -> None:
        self._events: list[list[Any]] = [[] for _ in calls]
        self._replay = _capture(calls, stream, lambda call: self._mark(call, stream))

    def _mark(self, call: int, stream: Any) -> None:
        from cupy.cuda import Event

        self._events[call].append(Event())
        record_node(self._events[call][-1], stream)

    def layers_us(self, stream: Any) -> np.ndarray[Any, Any]:
        """The time of each layer in one replay, a row a call."""
        from cupy.cuda import get_elapsed_time

        self._replay.start(stream)
        stream.synchronize()
        return np.array([[get_elapsed_time(*pair) * 1e3 for pair in pairwise(row)] for row in self._events])


def _capture(calls: Sequence[tuple[Step, ...]], stream: Any, mark: Callable[[int], None]) -> Replay:
    """A graph of calls; ``mark`` hears of each call's number before its first layer, and after every layer."""
    stream.begin_capture()
    try:
        for number, steps in enumerate(calls):
            mark(number)
            for step in steps:
                step.launch(stream.ptr)
                mark(number)
    finally:
        graph = stream.end_capture()
    return Replay(lambda on: graph.launch(stream=on), len(calls))
