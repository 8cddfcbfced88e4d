from __future__ import annotations

import json
import time
from typing import Any

import pytest

from kgen.cli.bench import _record, bench_network
from kgen.cli.options import parse_batches
from kgen.devices import find_device
from kgen.errors import DeviceError, ProblemError
from kgen.machine import ideal_us
from kgen.networks import Network, NetworkWeights, contenders
from kgen.networks.bench import Contender, measure
from kgen.networks.contenders import ours, peer

H200 = find_device("h200")
NETWORK = Network("tiny", (16, 32), (2, 1), expansion=2, classes=10, patch=2)


class Clockwork:
    """A device that finishes each call ``busy_s`` after the one before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy_s: float) -> None:
        self.now_s = self.done_s = 0.0
        self.busy_s = busy_s
        self.calls = 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)

    def call(self) -> None:
        self.calls += 1
        self.done_s = max(self.done_s, self.now_s) + self.busy_s
        self.now_s += 1e-6

    def synchronize(self) -> None:
        self.now_s = max(self.now_s, self.done_s)


def test_figures_of_a_device_that_is_always_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clockwork(monkeypatch, 100e-6)
    contender = Contender("kgen", device.call, device.synchronize, lambda: 12345)
    figures = measure(contender, NETWORK, 4, 8, H200, calls=50)
    assert (figures.contender, figures.batch, figures.memory_bytes) == ("kgen", 4, 12345)
    assert figures.p50_us == pytest.approx(100.0) and figures.p99_us == pytest.approx(100.0)
    assert figures.images_per_s == pytest.approx(4 / 100e-6)
    whole = sum(ideal_us(layer.problem.flops, H200) for layer in NETWORK.layers(4, 8, 8))
    assert figures.ideal_us == pytest.approx(whole) and figures.efficiency == pytest.approx(whole / 100.0)
    assert device.calls > 100


def test_a_slow_call_shows_in_p99_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clockwork(monkeypatch, 100e-6)

    def call() -> None:
        device.busy_s = 5e-3 if device.calls % 50 == 30 else 100e-6
        device.call()

    figures = measure(Contender("kgen", call, device.synchronize, lambda: 0), NETWORK, 1, 8, H200, calls=100)
    assert figures.p50_us == pytest.approx(100.0) and figures.p99_us > 1000


def test_without_a_gpu_networks_are_not_measured() -> None:
    with pytest.raises(DeviceError, match="measured on a local GPU only, but h200 is a datasheet's"):
        ours(NETWORK, NetworkWeights.random(NETWORK), 1, 8, H200)


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(ProblemError, match="peer must be one of inductor, eager, but got 'tensorrt'"):
        peer("tensorrt", NETWORK, NetworkWeights.random(NETWORK), 1, 8, H200)


@pytest.mark.parametrize("text", ["", "1,", "a"])
def test_batches_are_integers(text: str) -> None:
    assert parse_batches("--batch", "1,32") == [1, 32]
    with pytest.raises(ProblemError, match="--batch must be integers with commas between"):
        parse_batches("--batch", text)


def test_what_is_recorded_has_its_environment_beside_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clockwork(monkeypatch, 100e-6)
    monkeypatch.setattr(contenders, "ours", lambda *_: Contender("kgen", device.call, device.synchronize, lambda: 7))
    out = tmp_path / "figures.json"
    bench_network("convfirst_tiny", "2", out=out, device="h200")
    recorded = json.loads(out.read_text())
    assert recorded["environment"]["gpu"] == "NVIDIA H200" and recorded["environment"]["template_digest"]
    assert [(one["batch"], one["memory_bytes"]) for one in recorded["figures"]] == [(2, 7)]


def test_an_unwritable_file_is_named(tmp_path: Any) -> None:
    with pytest.raises(ProblemError, match="--out must be a writable file"):
        _record(tmp_path / "missing" / "figures.json", {})
