"""Energy of a launch: what is counted between two steps of a counter, and what is said where it cannot be measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from kgen import energy
from kgen.blocks import family
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cases import cached_case
from kgen.compile import compile_cubin
from kgen.devices import find_device, local_devices
from kgen.energy import check_energy, joules_per_launch, measure_energy
from kgen.errors import DeviceError
from kgen.launch import LoadedProgram
from kgen.measure import measure
from kgen.render import render

LOCAL = replace(find_device("h200"), ordinal=0)


class Gpu:
    """A GPU at 500 W whose replays last 1.5 ms for 100 launches, and whose counter moves every ``every_s`` seconds."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.now_s = 0.013
        self.launches = 0

    def step(self) -> int:
        self.now_s += 1.5e-3
        self.launches += 100
        return self.launches

    def read_j(self) -> float:
        return round(500.0 * self.every_s * (self.now_s // self.every_s), 3)


@pytest.mark.parametrize("every_s", [1e-3, 0.02, 0.1, 0.5])
def test_the_steps_of_the_counter_do_not_matter(every_s: float) -> None:
    """500 W for 15 us a launch are 7.5 mJ; a replay at either end is 1.5%, and reading at a fixed time 50%."""
    gpu = Gpu(every_s)
    assert joules_per_launch(gpu.step, gpu.read_j, lambda: gpu.now_s) == pytest.approx(7.5e-3, rel=0.016)
    assert gpu.now_s < 0.4 + 2.5 * every_s


def test_a_counter_that_stands_still_is_a_sentence() -> None:
    gpu = Gpu(1e9)
    with pytest.raises(DeviceError, match="energy counter must move while it works, but it stood at 0 J for 2 s"):
        joules_per_launch(gpu.step, gpu.read_j, lambda: gpu.now_s)
    assert gpu.now_s < 2.2


def test_a_named_device_has_no_energy() -> None:
    with pytest.raises(DeviceError, match="a GPU of this machine only, but h200 is a datasheet's; drop it from"):
        check_energy(find_device("h200"))


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"energy needs nvidia-ml-py, .* pip install nvidia-ml-py"):
        check_energy(LOCAL)


class FakeError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """NVML of a machine with one GPU."""
    fake: Any = ModuleType("pynvml")
    fake.NVMLError = FakeError
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByPciBusId = {"0000:19:00.0": "handle"}.__getitem__
    fake.nvmlDeviceGetTotalEnergyConsumption = {"handle": 1500}.__getitem__
    runtime: Any = ModuleType("cupy_backends.cuda.api.runtime")
    runtime.deviceGetPCIBusId = {0: "0000:19:00.0"}.__getitem__
    api: Any = ModuleType("cupy_backends.cuda.api")
    api.runtime = runtime
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api", api)
    return fake  # type: ignore[no-any-return]


def test_the_counter_is_the_gpus_by_its_bus(nvml: ModuleType) -> None:
    check_energy(LOCAL)
    assert energy._counter(0)() == 1.5


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_does_not_count_is_a_sentence(nvml: Any, name: str) -> None:
    def refuse(*_: object) -> None:
        raise nvml.NVMLError("Not Supported")

    setattr(nvml, name, refuse)
    with pytest.raises(DeviceError, match=r"but NVML does not for cuda:0 \(Not Supported\); drop it from --objective"):
        check_energy(LOCAL)


@pytest.mark.gpu
def test_energy_on_a_gpu() -> None:
    """Twice the images take about twice the energy, and a launch's power lies between idling and the board's limit."""
    pynvml = pytest.importorskip("pynvml")
    device = local_devices()[0]
    check_energy(device)
    joules, power_w = {}, {}
    for batch in (128, 256):
        case, loaded = _loaded(ConvFirst(batch, 28, 28, 128), device)
        joules[batch] = [measure_energy(case, loaded) for _ in range(3)]
        power_w[batch] = joules[batch][0] / (measure(case, loaded)[0].median_us * 1e-6)
    limit_w = pynvml.nvmlDeviceGetEnforcedPowerLimit(pynvml.nvmlDeviceGetHandleByIndex(0)) * 1e-3
    assert all(10 < one < 1.2 * limit_w for one in power_w.values()), power_w
    for found in joules.values():
        assert max(found) < 1.1 * min(found), joules
    assert 1.5 < min(joules[256]) / min(joules[128]) < 2.5, joules


def _loaded(problem: ConvFirst, device: Any) -> tuple[Any, LoadedProgram]:
    kind = family("convfirst")
    program = kind.plan(problem, kind.default_config(problem, device), device)
    return cached_case(problem), LoadedProgram(program, compile_cubin(render(program), program.arch))
