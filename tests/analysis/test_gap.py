from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import readme_figures

from kgen.analysis.gap import Mark, front, load_marks, load_network_marks
from kgen.analysis.gap_plot import draw, heights
from kgen.cli import main
from kgen.errors import ProblemError

DATA = Path(__file__).parents[2] / "benchmarks" / "gap" / "imagenet-nvidia-h200.json"
MARKS = (
    Mark("slow", "a", 1, 82.0, 1.0, 9.0),
    Mark("good", "a", 1, 83.0, 2.0, 8.0),
    Mark("best", "a", 1, 84.0, 4.0, 16.0),
    Mark("worse", "a", 1, 83.5, 5.0, 20.0),
    Mark("unrated", "a", 1, None, 0.5, 0.6),
)


def test_fronts_hold_what_nothing_beats_in_both() -> None:
    assert [mark.model for mark in front(MARKS, lambda one: one.ideal_ms)] == ["slow", "good", "best"]
    assert [mark.model for mark in front(MARKS, lambda one: one.latency_ms)] == ["good", "best"]
    assert front(MARKS[4:], lambda one: one.ideal_ms) == ()


def test_the_shipped_data_by_hand() -> None:
    marks = {mark.model: mark for mark in load_marks(DATA, 256)}
    tiny = marks["convnext_tiny"]
    # 4.5 G multiply-accumulates, 2 operations each, 256 images, 989.4 TFLOP/s.
    assert tiny.ideal_ms == pytest.approx(2 * 4.5e9 * 256 / 989.4e12 * 1e3) == pytest.approx(2.3287, abs=1e-3)
    assert tiny.latency_ms == 14.2025 and tiny.gap == pytest.approx(6.1, abs=0.01)
    assert {name: mark.top1_percent for name, mark in marks.items()} == {
        "convnext_tiny": 82.1,
        "convnext_small": 83.1,
        "convnext_base": 83.8,
        "resnet50": 80.4,
    }


ROW = {"network": "convfirst_tiny", "batch": 256, "flops": 2.3e12, "kgen_us": 5160.0, "peer": "convnext_tiny"}


def networks(path: Path, **changes: Any) -> Path:
    rows = [ROW | changes, ROW | {"network": "convfirst_base", "batch": 1}]
    path.write_text(json.dumps({"environment": {"peak_flops": 1e15}, "rows": rows}))
    return path


def test_our_networks_are_marks_without_accuracy(tmp_path: Path) -> None:
    (mark,) = load_network_marks(networks(tmp_path / "networks.json"), 256)
    assert mark == Mark("convfirst_tiny", "kgen", 256, None, pytest.approx(2.3), 5.16)


def test_benchmarks_write_the_fields_that_are_read() -> None:
    """benchmarks/networks.py cannot be imported without a GPU."""
    source = (Path(__file__).parents[2] / "benchmarks" / "networks.py").read_text(encoding="utf-8")
    assert all(f'"{name}": ' in source for name in ROW)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "must have rows and an environment, but it lacks one; make it by benchmarks/networks.py"),
        ('{"rows": [], "environment": {}}', "peak_flops of .* must be a positive number .* but got None"),
        (
            '{"rows": [{}], "environment": {"peak_flops": 1}}',
            "network of row 0 in .* must be of type str, but",
        ),
        ('{"rows": [], "environment": {"peak_flops": 1}}', "--batch must be one of those in .* none, but got 256"),
    ],
)
def test_bad_results_of_networks_are_named(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "networks.json"
    path.write_text(text)
    with pytest.raises(ProblemError, match=sentence):
        load_network_marks(path, 256)


def test_the_figure_has_our_networks_once_they_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_figures, "NETWORKS", tmp_path / "missing.json")
    peers = readme_figures.gap_marks()
    assert "convfirst_tiny" not in {mark.model for mark in peers}
    monkeypatch.setattr(readme_figures, "NETWORKS", networks(tmp_path / "networks.json"))
    assert [mark.model for mark in readme_figures.gap_marks()[len(peers) :]] == ["convfirst_tiny"]


def test_models_without_accuracy_lie_below_all_others() -> None:
    found = heights(MARKS)
    assert found[:4] == [82.0, 83.0, 84.0, 83.5] and found[4] < 81.0


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_names_every_model(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / f"gap.{suffix}"
    draw(MARKS, "title", out)
    assert out.stat().st_size > 2000
    assert suffix == "png" or all(f"{mark.model}, a" in out.read_text() for mark in MARKS)
    with pytest.raises(ProblemError, match="--plot must name a file that can be written"):
        draw(MARKS, "title", tmp_path / "missing" / f"gap.{suffix}")


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ProblemError, match="--plot needs matplotlib, but importing it failed"):
        draw(MARKS, "title", tmp_path / "gap.svg")


def document(**changes: Any) -> str:
    model = {"model": "m", "runner": "r", "batch": 1, "top1_percent": 80.0, "gmacs": 4.0, "latency_ms": 1.0}
    return json.dumps({"schema_version": 1, "peak_flops": 1e15, "models": [model | changes]})


BAD = {
    "not json": ("{", "must be a readable JSON file of models"),
    "schema": ('{"schema_version": 2, "models": []}', "must have schema_version 1 and a list of models, but got 2"),
    "peak": ('{"schema_version": 1, "models": [], "peak_flops": 0}', "peak_flops of .* must be a positive number"),
    "empty": ('{"schema_version": 1, "models": [], "peak_flops": 1e15}', "--batch must be one of those in .* none"),
    "accuracy": (document(top1_percent="high"), "top1_percent of model 0 in .* must be a positive number, but got 'hi"),
    "latency": (document(latency_ms=0), "latency_ms of model 0 in .* must be a positive number, but got 0"),
    "batch": (document(batch=True), "batch of model 0 in .* must be of type int"),
    "other batch": (document(batch=2), "--batch must be one of those in .*, 2, but got 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_named(tmp_path: Path, name: str) -> None:
    text, sentence = BAD[name]
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(ProblemError, match=sentence):
        load_marks(path, 1)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ours = ("--networks", str(networks(tmp_path / "networks.json")))
    for more in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["kgen", "gap-plot", str(DATA), "--batch", "1", *ours, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        shown = capsys.readouterr().out
        if more:
            gaps = {one["model"]: one["gap"] for one in json.loads(shown)}
            assert gaps["convnext_tiny"] == pytest.approx(0.5481 / (9e9 / 989.4e12 * 1e3))
        else:
            assert "convnext_base" in shown and "convfirst_base" in shown and "ideal, actual" in shown
