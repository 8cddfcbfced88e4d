"""A GPU that the emulator plays: real plans, sources, packed weights and addresses; and a small network to run on it.

Its time is what a test says that launches and events take; it may leave out computing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kgen.devices import find_device
from kgen.emulator import build
from kgen.networks import GpuNetwork, Network, NetworkWeights
from kgen.networks.programs import NetworkPrograms

GRAPH = 99
"""The stream on which a network's graph runs its kernels."""
DEVICE = replace(find_device("h200"), ordinal=0)
NETWORK = Network("tiny", (16, 32), (2, 1), expansion=2, classes=10, patch=2, pixels="uint8", order="nchw")
WEIGHTS = NetworkWeights.random(NETWORK, 3)


@dataclass
class FakeGpu:
    """Host memory, and a record of what was asked of streams; ``room`` is the largest allocation."""

    room: int = 1 << 40
    capturing: bool = False
    events: list[Any] = field(default_factory=list)
    launches: list[tuple[str, int]] = field(default_factory=list)
    computes: bool = True
    cost_us: Callable[[Any], float] = lambda problem: 1.0
    event_us: float = 0.0
    now_us: float = 0.0
    captured: list[Any] | None = None
    graphs: int = 0
    stream: int = 7

    def module(self) -> Any:
        """What stands in for CuPy."""

        class Current:
            def __init__(self, ordinal: int) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *_: object) -> None: ...

        current = SimpleNamespace(synchronize=lambda: None)
        cuda = SimpleNamespace(
            Device=Current,
            Event=lambda **_: Event(self),
            get_elapsed_time=lambda start, end: (end.at_us - start.at_us) / 1e3,
            Stream=lambda **_: self,
            get_current_stream=lambda ordinal=None: SimpleNamespace(ptr=self.stream, **vars(current)),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        )
        return SimpleNamespace(ndarray=Array, asarray=Array.of, empty=self.empty, cuda=cuda)

    def empty(self, shape: Any, dtype: Any) -> Array:
        if np.dtype(dtype).itemsize * np.prod(shape) > self.room:
            raise MemoryError
        return Array.of(np.full(shape, 0xFF, dtype) if dtype == "uint8" else np.full(shape, np.nan, dtype))

    # A stream that captures.
    ptr = 98

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Any:
        work, self.captured = self.captured or [], None

        def launch(stream: Any) -> None:
            for run in work:
                run()

        return SimpleNamespace(launch=launch)

    def record_node(self, event: Event, stream: Any) -> None:
        """In the place of :func:`kgen.measure.record_node`."""
        assert self.captured is not None
        self.captured.append(lambda: event.record(stream))

    def synchronize(self) -> None: ...

    # The runtime.
    def streamIsCapturing(self, stream: int) -> bool:  # noqa: N802
        return self.capturing

    def streamWaitEvent(self, stream: int, event: int) -> None:  # noqa: N802
        self.events.append(("wait", stream))

    def eventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        self.events.append(("record", stream))

    def graph(self, record: Any) -> Any:
        """What stands in for a LaunchGraph."""

        def start(x: int, y: int, stream: int) -> None:
            self.events.append(("graph", stream))
            record(x, y, GRAPH)

        self.graphs += 1
        return SimpleNamespace(start=start)


@dataclass
class Event:
    """When the GPU came by."""

    gpu: FakeGpu
    at_us: float = 0.0
    ptr: int = 1

    def record(self, stream: Any) -> None:
        self.at_us = self.gpu.now_us
        self.gpu.now_us += self.gpu.event_us

    def synchronize(self) -> None: ...


class Array:
    """A NumPy array, 256-byte aligned, that looks like CuPy's."""

    @classmethod
    def of(cls, values: Any) -> Array:
        one = cls()
        memory = np.empty(values.nbytes + 256, np.uint8)
        start = -memory.ctypes.data % 256
        one.values = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        one.values[...] = values
        one.data = SimpleNamespace(ptr=one.values.ctypes.data, device_id=0)
        return one

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)


def at(address: int, size: int) -> Any:
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (size,))


def install(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Put a GPU in the place of CuPy and the driver."""
    fake = FakeGpu()

    class Loaded:
        """A program whose launches the emulator runs."""

        def __init__(self, program: Any, library: Any) -> None:
            self.program, self._library = program, library

        def launch(self, x: int, weights: int, hidden: int, y: int, batch: int, stream: int) -> None:
            problem = self.program.problem
            bits = np.uint8 if problem.x.dtype == "uint8" else np.uint16
            assert (hidden == 0) == (self.program.workspace_bytes == 0)
            fake.launches.append((problem.family, stream))

            def run() -> None:
                fake.now_us += fake.cost_us(problem)
                if not fake.computes:
                    return
                packed = at(weights, self._weights_bytes())
                source, target = at(x, problem.x.bytes).view(bits), at(y, problem.y.bytes).view(np.uint16)
                self._library.launch(self.program, source, packed, target, batch=batch)

            if fake.captured is None:
                run()
            else:
                fake.captured.append(run)

        def _weights_bytes(self) -> int:
            from kgen.blocks import family

            block, problem = family(self.program.problem.family), self.program.problem
            return int(block.pack(problem, block.fold(problem, block.Weights.random(problem))).nbytes)

    class Pool:
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, source: Any, arch: str) -> Any:
            return SimpleNamespace(result=lambda: build(source))

    from cupy_backends.cuda.api import runtime

    module = fake.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", module.cuda)
    monkeypatch.setattr("kgen.networks.profile.record_node", fake.record_node)
    for name in ("streamIsCapturing", "streamWaitEvent", "eventRecord"):
        monkeypatch.setattr(runtime, name, getattr(fake, name))
    monkeypatch.setattr("kgen.networks.gpu.LaunchGraph", fake.graph)
    monkeypatch.setattr("kgen.networks.programs.LoadedProgram", Loaded)
    monkeypatch.setattr("kgen.networks.programs.CompilePool", Pool)
    monkeypatch.setattr("kgen.networks.programs.config_for", lambda problem, device, folder: default(problem))
    return fake


def default(problem: Any) -> Any:
    from kgen.blocks import family

    return family(problem.family).default_config(problem, DEVICE)


def model() -> GpuNetwork:
    return GpuNetwork(NetworkPrograms(NETWORK, WEIGHTS, DEVICE, 0, None))


def images(batch: int, height: int = 8, width: int = 9, seed: int = 0) -> Array:
    shape = (batch, 3, height, width)
    return Array.of(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
