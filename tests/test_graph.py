"""CUDA graphs with ends that move, on a driver that a test plays."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace

import pytest

from kgen import graph as graph_module
from kgen.graph import LaunchGraph, _NodeParameters
from kgen.launch import LaunchError, ParameterBlock

KERNELS = 3


class FakeDriver:
    """Three kernel nodes, each of five parameters, and what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cupy = pytest.importorskip("cupy")
        self.blocks: list[ParameterBlock] = []
        self.calls: list[object] = []
        self.status = dict.fromkeys(("begin", "launch"), 0)
        monkeypatch.setattr(cupy.cuda, "Stream", lambda **_: SimpleNamespace(ptr=5))
        functions = {
            "cuStreamBeginCapture_v2": lambda stream, mode: self.status["begin"],
            "cuStreamEndCapture": lambda stream, graph: self._give(graph, 70),
            "cuGraphInstantiateWithFlags": lambda executable, graph, flags: self._give(executable, 80),
            "cuGraphGetNodes": self.nodes,
            "cuGraphKernelNodeGetParams_v2": self.parameters,
            "cuGraphExecKernelNodeSetParams_v2": self.change,
            "cuGraphLaunch": self.launch,
            "cuGraphExecDestroy": lambda executable: self.calls.append(("destroy", executable)) or 0,
            "cuGraphDestroy": lambda graph: self.calls.append(("destroy", graph)) or 0,
        }
        monkeypatch.setattr(graph_module, "driver_function", lambda name, pointers: functions[name])

    def record(self, x: int, y: int, stream: int) -> None:
        assert stream == 5
        for source, target in ((x, 100), (100, 200), (200, y)):
            block = ParameterBlock()
            block.pack(source, 1, 2, target, 9)
            self.blocks.append(block)

    @staticmethod
    def _give(place: object, value: int) -> int:
        place._obj.value = value  # type: ignore[attr-defined]
        return 0

    def nodes(self, graph: int, handles: object, count: object) -> int:
        if handles is not None:
            handles[:] = [1 + i for i in range(KERNELS)]  # type: ignore[index]
        return self._give(count, KERNELS)

    def parameters(self, node: int, launch: object) -> int:
        launch._obj.grid[0] = 10 * node  # type: ignore[attr-defined]
        launch._obj.parameters = self.blocks[node - 1].address  # type: ignore[attr-defined]
        return 0

    def change(self, executable: int, node: int, launch: object) -> int:
        changed: _NodeParameters = launch._obj  # type: ignore[attr-defined]
        assert changed.grid[0] == 10 * node
        self.calls.append((executable, node, ParameterBlock.read(changed.parameters)))
        return 0

    def launch(self, executable: int, stream: int) -> int:
        self.calls.append(("launch", executable, stream))
        return self.status["launch"]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(monkeypatch)


def test_ends_are_bound_when_they_change_and_only_then(driver: FakeDriver) -> None:
    graph = LaunchGraph(driver.record)
    graph.start(1 << 40, 2 << 40, 7)
    bound = [(80, 1, (1 << 40, 1, 2, 100, 9)), (80, 3, (200, 1, 2, 2 << 40, 9))]
    assert driver.calls == [*bound, ("launch", 80, 7)]
    driver.calls.clear()
    graph.start(1 << 40, 2 << 40, 8)
    assert driver.calls == [("launch", 80, 8)]
    driver.calls.clear()
    graph.start(1 << 40, 3 << 40, 8)
    assert [call[1] for call in driver.calls[:2]] == [1, 3] and driver.calls[1][2][3] == 3 << 40


def test_a_graph_is_destroyed_with_its_object(driver: FakeDriver) -> None:
    LaunchGraph(driver.record)
    gc.collect()
    assert driver.calls == [("destroy", 80), ("destroy", 70)]


def test_a_refusal_is_a_sentence(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupy_backends.cuda.api.driver.CUDADriverError", lambda status: f"error {status}")
    graph = LaunchGraph(driver.record)
    driver.status["launch"] = 1
    with pytest.raises(LaunchError, match="refuses a CUDA graph with error 1; check that the stream"):
        graph.start(0, 0, 0)
    driver.status["begin"] = 1
    with pytest.raises(LaunchError, match="the driver refuses a CUDA graph"):
        LaunchGraph(driver.record)


def test_a_capture_that_fails_is_ended(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    functions = graph_module.driver_function
    monkeypatch.setattr(
        graph_module,
        "driver_function",
        lambda name, pointers: (lambda *_: ended.append(name) or 0) if "End" in name else functions(name, pointers),
    )
    with pytest.raises(ZeroDivisionError):
        LaunchGraph(lambda x, y, stream: 1 // 0)
    assert ended == ["cuStreamEndCapture"]


def test_parameters_are_read_where_they_were_packed() -> None:
    block = ParameterBlock()
    block.pack(1 << 63, 2, 3, 4 << 40, -5)
    assert ParameterBlock.read(block.address) == (1 << 63, 2, 3, 4 << 40, -5)
    assert ctypes.sizeof(_NodeParameters) == 72
