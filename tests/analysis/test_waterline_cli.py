"""``kgen waterline``: tables, JSON, the plot, and one sentence for bad input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kgen.analysis.problems import problem_sequences
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cli import main
from kgen.devices import find_device

RESNET = str(Path(__file__).parent / "traces" / "resnet50.json")
ON = ("--device", "h200")
BLOCK = ("convfirst", "--channels", "64", "--size", "56", "--batch", "256", *ON)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))


@pytest.fixture
def waterline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kgen", "waterline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def test_a_block_as_json(waterline: Any) -> None:
    ran = waterline(*BLOCK, "--json")
    layers, block = ran.json["sequences"]
    expected = problem_sequences(ConvFirst(256, 56, 56, 64), find_device("h200"))
    assert ran.code == 0 and ran.json["waterline_flop_per_byte"] == pytest.approx(989.4 / 4.8)
    assert [kernel["name"].split(".")[-1] for kernel in layers["kernels"]] == ["conv", "expand", "project"]
    for found, sequence in zip((layers, block), expected, strict=True):
        assert found["name"] == sequence.name and found["total"]["flops"] == sequence.flops
        assert found["total"]["attainable_us"] == pytest.approx(sequence.attainable_us)
        assert found["total"]["l2_attainable_us"] == pytest.approx(sequence.l2_attainable_us)
        assert sum(kernel["times"] * kernel["attainable_us"] for kernel in found["kernels"]) == pytest.approx(
            found["total"]["attainable_us"]
        )
        assert sum(kernel["share"] for kernel in found["kernels"]) == pytest.approx(1)


@pytest.mark.parametrize(
    "arguments",
    [
        BLOCK,
        ("patchconv", "--channels", "3", "--outputs", "96", "--patch", "4", "--size", "224", *ON),
        ("classifier", "--channels", "768", "--size", "7", "--device", "a100"),
        ("--network", "convfirst_tiny", "--batch", "256", *ON),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_tables(arguments: tuple[str, ...], waterline: Any) -> None:
    ran = waterline(*arguments)
    assert ran.code == 0 and not ran.err
    for word in ("waterline", "layer by layer", "block-fused", "FLOP/byte", "attainable us", "measured us", "all"):
        assert word in ran.out


def test_a_trace(waterline: Any) -> None:
    text = waterline("--torch", RESNET, "--batch", "256", *ON)
    assert text.code == 0 and "4.089 G multiply-accumulates an image" in text.out and "layer2.0.conv2" in text.out
    found = waterline("--torch", RESNET, "--batch", "256", *ON, "--json").json
    assert found["macs"] == 4_089_184_256 and found["unknown_operators"] == {} and len(found["blocks"]) == 16
    first = found["blocks"][0]
    assert (first["name"], first["kernels"]) == ("layer1.0", 4)
    assert first["saved_us"] == pytest.approx(first["layered_us"] - first["fused_us"])


def test_unknown_operators_are_told_on_stderr(waterline: Any, tmp_path: Path) -> None:
    nodes = [["x", "input", [], [1, 4]], ["odd", "fft", [0], [1, 4]]]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"schema": 1, "model": "odd", "outputs": [1], "nodes": nodes}))
    ran = waterline("--torch", str(path), "--json")
    assert ran.code == 0 and ran.json["unknown_operators"] == {"fft": 1} and "not known" in ran.err
    assert "fft (1)" in waterline("--torch", str(path)).err


@pytest.mark.parametrize("suffix", [".svg", ".png"])
@pytest.mark.parametrize("source", [BLOCK, ("--torch", RESNET)], ids=["block", "trace"])
def test_plot(source: tuple[str, ...], suffix: str, waterline: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    ran = waterline(*source, "--plot", str(path))
    assert ran.code == 0 and "block-fused" in ran.out
    assert path.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


def test_matplotlib_is_missing(waterline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(waterline(*BLOCK, "--plot", str(tmp_path / "plot.svg")), "install kgen's extra plot")


def test_torch_is_missing(waterline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kgen.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(waterline("--torch", "timm:resnet50"), "install kgen's extra torch, or pass a trace's FILE.json")


def test_plot_cannot_be_written(waterline: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    refused(waterline(*BLOCK, "--plot", str(tmp_path / "none" / "plot.svg")), "choose another path")


BAD = {
    "nothing": ((), "needs a family, a network or a PyTorch model"),
    "both": (("--network", "convfirst_tiny", "--torch", RESNET), "one of them only"),
    "network": (("--network", "resnet"), "a network must be one of convfirst_tiny"),
    "batch": (("--network", "convfirst_tiny", "--batch", "0"), "batch must be an integer >= 1"),
    "trace batch": (("--torch", RESNET, "--batch", "-1"), "batch must be an integer >= 1"),
    "trace size": (("--torch", RESNET, "--size", "224"), "drop it or trace anew"),
    "no file": (("--torch", "no/such.json"), "a trace must be a JSON file"),
    "suffix": ((*BLOCK, "--plot", "plot.txt"), "--plot must end in .svg, .png, .pdf"),
    "device": (("convfirst", "--channels", "64", "--size", "7", "--device", "h201"), "device must be one of"),
    "problem": (("convfirst", "--channels", "65", "--size", "7"), "channels must be a multiple of 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, waterline: Any) -> None:
    arguments, sentence = BAD[name]
    refused(waterline(*arguments), sentence)


def refused(ran: Ran, sentence: str) -> None:
    assert ran.code == 2 and not ran.out
    assert ran.err.startswith("kgen: ") and sentence in ran.err and ran.err.count("\n") == 1
