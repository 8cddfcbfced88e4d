from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kgen import devices
from kgen.devices import find_device, known_devices, local_devices
from kgen.errors import DeviceError

_H200_ATTRIBUTES = {
    "MultiProcessorCount": 132,
    "ClockRate": 1_980_000,
    "MemoryClockRate": 3_201_000,
    "GlobalMemoryBusWidth": 6144,
    "L2CacheSize": 62914560,
    "MaxSharedMemoryPerBlockOptin": 232448,
    "MaxSharedMemoryPerMultiprocessor": 233472,
    "MaxRegistersPerMultiprocessor": 65536,
    "MaxThreadsPerMultiProcessor": 2048,
}


class _Runtime:
    """Stands in for CuPy's binding of the CUDA runtime."""

    def __init__(self, *cards: tuple[str, int, dict[str, int]]) -> None:
        self.cards = cards
        for code, name in enumerate(_H200_ATTRIBUTES):
            setattr(self, f"cudaDevAttr{name}", code)

    def getDeviceCount(self) -> int:  # noqa: N802
        if not self.cards:
            raise RuntimeError("cudaErrorInsufficientDriver")
        return len(self.cards)

    def getDeviceProperties(self, ordinal: int) -> dict[str, Any]:  # noqa: N802
        title, capability, _ = self.cards[ordinal]
        return {"name": title.encode(), "major": capability // 10, "minor": capability % 10}

    def deviceGetAttribute(self, code: int, ordinal: int) -> int:  # noqa: N802
        return self.cards[ordinal][2][list(_H200_ATTRIBUTES)[code]]


def _install(monkeypatch: pytest.MonkeyPatch, *cards: tuple[str, int, dict[str, int]]) -> None:
    api = SimpleNamespace(runtime=_Runtime(*cards))
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api", api)


def test_known_devices_have_unique_names_and_sane_numbers() -> None:
    known = {device.name: device for device in known_devices()}
    assert len(known) == len(known_devices())
    assert {"h200", "h100", "a100", "l4", "rtx3090", "rtx4090", "rtx5090", "b200"} <= set(known)
    for device in known.values():
        assert device.ordinal is None
        assert device.source
        assert device.shared_per_cta_bytes == device.shared_per_sm_bytes - 1024
        assert 50 < device.peak_flops / device.dram_bytes_per_s < 500
        assert device.l2_bytes % 2**19 == 0


def test_the_h200_is_the_datasheets() -> None:
    device = find_device("h200")
    assert (device.arch, device.sms, device.clock_mhz) == ("sm_90", 132, 1980)
    assert (device.peak_flops, device.dram_bytes_per_s, device.l2_bytes) == (989.4e12, 4.8e12, 62914560)
    assert device.slug == "nvidia-h200"


@pytest.mark.parametrize("device", known_devices(), ids=lambda device: device.name)
def test_datasheet_peaks_agree_with_rate_and_clock(device: devices.Device) -> None:
    # Datasheets quote the data-centre parts below their highest clock, never above it.
    estimate = devices._estimated_peak_flops(device)
    assert 0.92 * estimate < device.peak_flops < 1.01 * estimate


def test_no_cupy_means_no_local_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api", None)
    assert local_devices() == ()


def test_no_driver_means_no_local_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    assert local_devices() == ()
    assert find_device(None).name == "h200"


def test_a_local_card_takes_counts_from_cuda_and_rates_from_its_datasheet(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, ("NVIDIA H200", 90, {**_H200_ATTRIBUTES, "MultiProcessorCount": 120}))
    (device,) = local_devices()
    assert (device.name, device.slug, device.ordinal, device.sms) == ("h200", "nvidia-h200", 0, 120)
    assert (device.clock_mhz, device.peak_flops, device.dram_bytes_per_s) == (1980, 989.4e12, 4.8e12)
    assert find_device(None) == find_device("cuda:0") == device
    assert find_device("h200").ordinal is None


def test_an_unknown_card_is_estimated_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    slower = {**_H200_ATTRIBUTES, "MultiProcessorCount": 60, "ClockRate": 2_000_000}
    _install(monkeypatch, ("NVIDIA GeForce RTX 9999", 86, slower), ("NVIDIA RTX A9999", 86, slower))
    geforce, professional = local_devices()
    assert "estimated" in geforce.source
    assert geforce.name == "geforce-rtx-9999"
    assert geforce.peak_flops == pytest.approx(60 * 2e9 * 512)
    assert professional.peak_flops == pytest.approx(2 * geforce.peak_flops)
    assert geforce.dram_bytes_per_s == pytest.approx(2 * 3.201e9 * 6144 / 8)
    assert professional.ordinal == 1


def test_a_card_newer_than_every_record_is_estimated_as_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, ("NVIDIA X", 130, _H200_ATTRIBUTES))
    assert local_devices()[0].arch == "sm_130"
    assert local_devices()[0].peak_flops > 0


def test_too_old_a_card_is_refused_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, ("Tesla T4", 75, _H200_ATTRIBUTES))
    with pytest.raises(DeviceError, match="sm_80 or newer, but Tesla T4 is sm_75; choose from h200"):
        find_device("cuda:0")


def test_an_unknown_device_lists_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    with pytest.raises(DeviceError, match=r"h200, h100, .*no local GPU was found.*but got 'cuda:0'"):
        find_device("cuda:0")
    assert find_device(" RTX4090 ").name == "rtx4090"


@pytest.mark.gpu
def test_the_local_gpu_is_read() -> None:
    device = find_device("cuda:0")
    assert device.ordinal == 0
    assert device.sms > 0 and device.clock_mhz > 500 and device.dram_bytes_per_s > 1e11
    assert device.shared_per_cta_bytes < device.shared_per_sm_bytes
