"""The SM clock: sampled by NVML where it is there, and unknown where it is not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from kgen.devices import local_devices
from kgen.nvml import sm_clock


class NVMLError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """A binding of NVML for a GPU at 00:07, whose clock is the number of samples."""
    pytest.importorskip("cupy_backends")
    samples = []

    def clock(gpu, kind):
        assert (gpu, kind) == ("handle of 00:07", "sm")
        samples.append(gpu)
        return 1000 + len(samples)

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM="sm",
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: f"handle of {bus}",
        nvmlDeviceGetClockInfo=clock,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr("cupy_backends.cuda.api.runtime.deviceGetPCIBusId", lambda ordinal: f"00:0{ordinal}")
    return fake


def test_the_clock_is_that_of_the_cuda_device(nvml):
    sample = sm_clock(7)
    first = sample()
    assert sample() == first + 1


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetClockInfo"])
def test_without_nvml_the_clock_is_unknown(missing, nvml):
    def refuse(*_):
        raise NVMLError

    setattr(nvml, missing, refuse)
    assert sm_clock(7)() == 0


def test_without_its_binding_the_clock_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert sm_clock(0)() == 0


@pytest.mark.gpu
def test_a_gpus_clock_is_plausible():
    pytest.importorskip("pynvml")
    device = local_devices()[0]
    assert 0 < sm_clock(device.ordinal)() <= 1.1 * device.clock_mhz
