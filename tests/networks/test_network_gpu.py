"""The network on a GPU that the emulator plays: real plans, sources, packed weights and addresses."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kgen.devices import find_device
from kgen.emulator import build
from kgen.errors import ArrayError, DeviceError
from kgen.networks import GpuNetwork, Network, NetworkWeights, fold, layered, reference
from kgen.networks.arena import ALIGNMENT_BYTES, plan_arena
from kgen.networks.programs import NetworkPrograms
from kgen.render import render

pytest.importorskip("cupy_backends")

GRAPH = 99
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
            Event=lambda **_: SimpleNamespace(ptr=1, synchronize=lambda: None),
            get_current_stream=lambda ordinal=None: SimpleNamespace(ptr=self.stream, **vars(current)),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        )
        return SimpleNamespace(ndarray=Array, asarray=Array.of, empty=self.empty, cuda=cuda)

    def empty(self, shape: Any, dtype: Any) -> Array:
        if np.dtype(dtype).itemsize * np.prod(shape) > self.room:
            raise MemoryError
        return Array.of(np.full(shape, 0xFF, dtype) if dtype == "uint8" else np.full(shape, np.nan, dtype))

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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
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

            packed = at(weights, self._weights_bytes())
            source, target = at(x, problem.x.bytes).view(bits), at(y, problem.y.bytes).view(np.uint16)
            self._library.launch(self.program, source, packed, target, batch=batch)

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

    monkeypatch.setitem(sys.modules, "cupy", fake.module())
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


def assert_right(logits: Any, x: Any) -> None:
    folded = fold(NETWORK, WEIGHTS)
    truth = reference(NETWORK, folded, x)
    bound = 2 * np.linalg.norm(layered(NETWORK, folded, x).astype(np.float64) - truth)
    assert logits.shape == truth.shape and logits.dtype == np.float16
    assert 0 < np.linalg.norm(logits.astype(np.float64) - truth) <= bound


def test_logits_are_right_at_every_batch_and_size(gpu: FakeGpu) -> None:
    network = model()
    for batch, height, width in ((2, 8, 9), (1, 8, 9), (3, 9, 12), (2, 8, 9)):
        x = images(batch, height, width, seed=batch)
        assert_right(network(x).values, x.values)


def test_the_same_shape_is_prepared_once_and_its_graph_runs_every_layer(gpu: FakeGpu) -> None:
    network = model()
    for seed in (0, 1):
        gpu.launches.clear()
        network(images(2, seed=seed))
        layers = ["patchconv", "convfirst", "convfirst", "patchconv", "convfirst", "classifier"]
        assert gpu.launches == [(name, GRAPH) for name in layers]
    assert gpu.graphs == 1
    assert gpu.events == [("wait", 7), ("graph", 7), ("record", 7), ("graph", 7), ("record", 7)]


def test_a_new_stream_waits_for_the_last_call(gpu: FakeGpu) -> None:
    network, x = model(), images(2)
    network(x)
    gpu.stream = 8
    network(x)
    assert gpu.events[3:] == [("wait", 8), ("graph", 8), ("record", 8)]


def test_a_captured_call_launches_every_kernel_itself_and_keeps_its_buffers(gpu: FakeGpu) -> None:
    network, x = model(), images(1)
    network(x)
    gpu.launches.clear()
    gpu.events.clear()
    gpu.capturing = True
    assert_right(network(x).values, x.values)
    gpu.capturing = False
    assert len(gpu.launches) == 6 and not gpu.events
    before = network._memory
    network(images(4))
    assert network._memory is not before and network._kept == [before]


def test_out_is_filled_and_returned(gpu: FakeGpu) -> None:
    x, out = images(2), Array.of(np.full((2, 10), np.nan, np.float16))
    assert model()(x, out=out) is out
    assert_right(out.values, x.values)
    with pytest.raises(ArrayError, match=r"out must have shape \(2, 10\)"):
        model()(x, out=Array.of(np.empty((2, 11), np.float16)))


def test_clones_share_weights_and_kernels_but_no_buffers(gpu: FakeGpu) -> None:
    one, x = model(), images(2)
    one(x)
    other = one.clone()
    assert_right(other(x).values, x.values)
    assert other._programs is one._programs and other._memory is not one._memory


def test_too_little_memory_is_said_in_a_sentence(gpu: FakeGpu) -> None:
    network = model()
    gpu.room = 1000
    with pytest.raises(DeviceError, match=r"tiny needs 0.00 GB of GPU memory .* use a smaller batch"):
        network(images(2))
    gpu.room = 1 << 40
    assert_right(network(images(2)).values, images(2).values)


def test_images_of_another_dtype_are_refused_before_anything_is_compiled(gpu: FakeGpu) -> None:
    with pytest.raises(ArrayError, match="images must have dtype uint8, but got float16"):
        model()(Array.of(np.zeros((2, 3, 8, 9), np.float16)))
    assert not gpu.launches


def test_an_arena_has_two_buffers_by_turns_and_one_workspace() -> None:
    arena = plan_arena([300, 100, 500, 40], [0, 1000, 64, 0])
    assert arena.y == (0, 512, 0)
    assert (arena.workspace, arena.bytes) == (768, 768 + 1024)
    assert all(offset % ALIGNMENT_BYTES == 0 for offset in (*arena.y, arena.workspace))


def test_the_kernels_are_those_that_the_tuner_sees(gpu: FakeGpu) -> None:
    """One source a layer, whatever the batch: a network's kernels are its blocks'."""
    programs = NetworkPrograms(NETWORK, WEIGHTS, DEVICE, 0, None)
    first, second = (programs.load(NETWORK.layers(batch, 8, 9)) for batch in (1, 2))
    for one, other in zip(first, second, strict=True):
        assert render(one.program).text == render(other.program).text
    assert first[1] is first[2] and programs.load(NETWORK.layers(1, 8, 9)) == first


def test_problems_without_a_config_are_tuned_when_told_to(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, known = [], NETWORK.layers(2, 8, 9)[0].problem
    monkeypatch.setattr("kgen.networks.programs.is_tuned", lambda problem, device, folder: problem == known)
    monkeypatch.setattr("kgen.search.tune", lambda problem, device, **limits: tuned.append(problem))
    x = images(2)
    assert_right(GpuNetwork(NetworkPrograms(NETWORK, WEIGHTS, DEVICE, 0, None, tunes=True))(x).values, x.values)
    assert set(tuned) == {layer.problem for layer in NETWORK.layers(2, 8, 9)} - {known} and len(tuned) == 4
