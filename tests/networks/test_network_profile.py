"""The profile of a network: its layers' times against a clock that is known, its table, its counters and its plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gpu import DEVICE, NETWORK, FakeGpu, model

from kgen.blocks.classifier.problem import Classifier
from kgen.cli import main
from kgen.machine import attainable_us, ideal_us
from kgen.ncu import CountersError, Launch
from kgen.networks import counted
from kgen.networks.counted import Call, Counts, count_layers
from kgen.networks.profile import Profile, profile

pytest.importorskip("cupy_backends")

NAMES = ["stem", "stages.0.blocks.0", "stages.0.blocks.1", "stages.1.downsample", "stages.1.blocks.0", "head"]
CALL = Call("convfirst_tiny", "float16", 2, 8, "cuda:0", None)


def cost_us(problem: Any) -> float:
    """A time of its own for every problem."""
    return 20.0 if isinstance(problem, Classifier) else float(problem.channels)


COSTS_US = [3.0, 16.0, 16.0, 16.0, 32.0, 20.0]


def profiled(gpu: FakeGpu, event_us: float = 0.0) -> Profile:
    gpu.cost_us, gpu.event_us, gpu.computes = cost_us, event_us, False
    return profile(model(), 2, 8, replays=3)


def test_each_layer_has_its_own_time_and_the_sum_is_the_calls(gpu: FakeGpu) -> None:
    found = profiled(gpu)
    assert [layer.name for layer in found.layers] == NAMES
    assert [layer.times.us for layer in found.layers] == pytest.approx(COSTS_US)
    assert found.call_us == pytest.approx(sum(COSTS_US)) and found.covered == pytest.approx(1.0)
    assert found.share(found.layers[4]) == pytest.approx(32 / 103)


def test_what_events_cost_shows_in_the_share_of_the_whole_call(gpu: FakeGpu) -> None:
    found = profiled(gpu, event_us=2.0)
    assert [layer.times.us for layer in found.layers] == pytest.approx([us + 2.0 for us in COSTS_US])
    assert found.covered > 1.0 and found.call_us < 103 + 3  # an event before and after the calls in a row


def test_figures_are_those_of_the_waterline(gpu: FakeGpu) -> None:
    found = profiled(gpu)
    layers = NETWORK.layers(2, 8, 8)
    for layer, one in zip(layers, found.layers, strict=True):
        assert one.program.problem == layer.problem
        times, ideal = one.times, ideal_us(layer.problem.flops, DEVICE)
        assert times.ideal_us == ideal and times.attainable_us == attainable_us(one.program)
        assert times.efficiency == pytest.approx(ideal / times.us)
        assert times.lost_us == pytest.approx(times.us - times.attainable_us)
    total = found.total
    assert total.us == pytest.approx(103.0)
    assert total.ideal_us == pytest.approx(sum(ideal_us(layer.problem.flops, DEVICE) for layer in layers))


@pytest.fixture
def run(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    gpu.cost_us, gpu.computes = cost_us, False
    monkeypatch.setattr(Call, "load", lambda call: model())

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["kgen", "profile", "convfirst_tiny", "--batch", "2", "--size", "8", *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_table_has_a_row_a_layer_and_says_the_share(run: Any) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert [rows[name][1] for name in NAMES] == [f"{us:.1f}" for us in COSTS_US]
    assert rows["all"][1:3] == ["103.0", "100.0%"] and rows["head"][2] == "19.4%"
    assert "the layers' 103.0 us are 100.0% of a whole call's 103.0 us" in out


def test_json_and_plot(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra plot brings")
    code, out, _ = run("--json", "--plot", str(tmp_path / "profile.svg"))
    document = json.loads(out)
    assert code == 0 and document["covered"] == pytest.approx(1.0) and document["batch"] == 2
    assert [layer["us"] for layer in document["layers"]] == pytest.approx(COSTS_US)
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1.0)
    assert document["total"]["us"] == pytest.approx(document["total"]["lost_us"] + document["total"]["attainable_us"])
    picture = (tmp_path / "profile.svg").read_text()
    assert "stages.1.blocks.0" in picture and "attainable by the waterline" in picture


class FakeProfiler:
    """Nsight Compute, which sees the kernels named in ``symbols``, each with its number as its bytes."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols

    def known(self, counters: list[str]) -> list[str]:
        return counters

    def run(self, child: list[str], counters: list[str]) -> tuple[Launch, ...]:
        assert child[:3] == [sys.executable, "-m", "kgen.networks.counted"] and Call(**json.loads(child[3])) == CALL
        instructions = "sm__inst_executed_pipe_tensor_op_hmma.sum", "sm__inst_executed_pipe_tensor_op_gmma.sum"
        assert counters == ["dram__bytes_read.sum", "dram__bytes_write.sum", *instructions]
        values = [(float(number), 5.0, 100.0, 10.0 * number) for number in range(len(self.symbols))]
        return tuple(
            Launch(symbol, dict(zip(counters, row, strict=True)))
            for symbol, row in zip(self.symbols, values, strict=True)
        )


def test_counters_are_summed_over_a_layers_kernels(gpu: FakeGpu) -> None:
    layers = profiled(gpu).layers
    symbols = [kernel.symbol for layer in layers for kernel in layer.program.kernels]
    profiler: Any = FakeProfiler(symbols)
    counts = count_layers(CALL, layers, profiler)
    first = 0
    for layer, one in zip(layers, counts, strict=True):
        numbers = range(first, first + len(layer.program.kernels))
        assert one == Counts(sum(numbers) + 5.0 * len(numbers), sum(100 + 10 * number for number in numbers))
        first += len(numbers)
    with pytest.raises(CountersError, match=f"must see the {len(symbols)} kernels of a call in order, but it saw"):
        strange: Any = FakeProfiler(symbols[::-1])
        count_layers(CALL, layers, strange)


def test_counters_are_in_the_table(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.nvidia_tools.find_tool", lambda name: "/bin/ncu")
    monkeypatch.setattr(counted, "count_layers", lambda call, layers, ncu: (Counts(1.25e6, None),) * len(layers))
    _, out, _ = run("--ncu")
    assert "DRAM MB" in out and out.count(" 1.2 ") == len(NAMES)
    _, out, _ = run("--ncu", "--json")
    assert {layer["dram_bytes"] for layer in json.loads(out)["layers"]} == {1.25e6}


def test_the_child_profiles_one_call_of_three(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    events = {name: lambda name=name: asked.append((name, len(gpu.launches))) for name in ("Start", "Stop")}
    runtime = SimpleNamespace(profilerStart=events["Start"], profilerStop=events["Stop"])
    monkeypatch.setattr(sys.modules["cupy"].cuda, "runtime", runtime, raising=False)
    monkeypatch.setattr(Call, "load", lambda call: model())
    counted.run(CALL)
    assert asked == [("Start", 2 * len(NAMES)), ("Stop", 3 * len(NAMES))]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--device", "h200"), "networks are measured on a local GPU only, but h200 is a datasheet's; use cuda:0"),
        (("--ncu",), "--ncu needs Nsight Compute, but ncu is not on the PATH; install it, or drop --ncu"),
    ],
)
def test_without_a_gpu_or_ncu_there_is_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kgen.nvidia_tools.find_tool", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["kgen", "profile", "convfirst_tiny", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, *capsys.readouterr()) == (2, "", f"kgen: {sentence}\n")


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::kgen.runtime.KgenWarning")
def test_layers_add_up_to_the_call_on_a_gpu() -> None:
    from kgen.networks import GpuNetwork, NetworkWeights, convfirst_tiny, load

    network = convfirst_tiny()
    loaded = load(network, NetworkWeights.random(network))
    assert isinstance(loaded, GpuNetwork)
    found = profile(loaded, 256, 224)
    assert len(found.layers) == 23 and 0.95 <= found.covered <= 1.1
    assert all(0 < layer.times.efficiency < 1 for layer in found.layers)
    alike = [layer.times.us for layer in found.layers if layer.name.startswith("stages.2.blocks.")]
    assert len(alike) == 9 and max(alike) < 1.2 * min(alike)
