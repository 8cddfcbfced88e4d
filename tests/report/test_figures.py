"""``--figures``: each chart as PNG and SVG, and a sentence where matplotlib is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kgen.search.storage import read_studies
from report_samples import SPLIT, write

from kgen.errors import ProblemError
from kgen.report import StudyTrials, analyse, read_study
from kgen.report.figures import save_figures


def test_every_chart_becomes_two_files(study: StudyTrials, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra plot brings")
    report = analyse(study)
    written = save_figures(report, tmp_path / "figures")
    names = {f"{chart.name}.{suffix}" for chart in report.charts for suffix in ("png", "svg")}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "figures").iterdir()} == names
    assert "predicted.png" in names and "time.svg" in names
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_parts_of_the_time_are_named_below_the_best_so_far(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra plot brings")
    (found,) = read_studies(write(tmp_path / "split.journal", SPLIT))
    save_figures(analyse(read_study(found)), tmp_path)
    assert "verifying and measuring 40%" in (tmp_path / "best-by-seconds.svg").read_text()
    assert "verifying and measuring 40%" not in (tmp_path / "best-by-trials.svg").read_text()


def test_a_folder_that_cannot_be_written_is_named(study: StudyTrials, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra plot brings")
    (tmp_path / "file").write_text("")
    with pytest.raises(ProblemError, match=r"--figures must be a writable folder, but .*file"):
        save_figures(analyse(study), tmp_path / "file" / "figures")


def test_a_missing_matplotlib_is_a_sentence(
    study: StudyTrials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ProblemError, match=r"--figures needs matplotlib, .* pip install 'kgen\[plot\]'"):
        save_figures(analyse(study), tmp_path)
