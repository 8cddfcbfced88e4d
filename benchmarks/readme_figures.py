"""Draws the README's figures from committed data, their numbers beside them: ``python benchmarks/readme_figures.py``.

Needs the extra ``plot``. A test compares the numbers with what the data give today.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kgen.search.storage import read_studies

from kgen.analysis import problem_sequences
from kgen.analysis.bars import bars, caption
from kgen.analysis.gap import Mark, load_marks, load_network_marks
from kgen.blocks.convfirst import Problem
from kgen.devices import find_device
from kgen.report import StudyTrials, read_study
from kgen.report.charts import Chart, charts
from kgen.tuned import packaged_dir

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "figures"
MODELS = ROOT / "benchmarks" / "gap" / "imagenet-nvidia-h200.json"
NETWORKS = ROOT / "benchmarks" / "results" / "networks-nvidia-h200.json"
BLOCK = Problem(batch=256, height=56, width=56, channels=64)
BATCH = 256
STUDY = ROOT / "benchmarks" / "studies" / "patchconv-nvidia-h200.journal"
CHARTS = ("best-by-seconds", "efficiency-registers", "importances")


def waterline_numbers() -> Any:
    sequences = problem_sequences(BLOCK, find_device("h200"), packaged_dir())
    return [{"caption": caption(one), "bars": [asdict(bar) for bar in bars(one)]} for one in sequences]


def gap_marks() -> tuple[Mark, ...]:
    """Those of the peers, and of our networks once they are measured."""
    return load_marks(MODELS, BATCH) + (load_network_marks(NETWORKS, BATCH) if NETWORKS.exists() else ())


def gap_numbers() -> Any:
    return [asdict(mark) for mark in gap_marks()]


def report_numbers() -> Any:
    """The charts; shares, which come of logarithms, are rounded to digits that every machine agrees on."""
    found = [asdict(chart) for chart in report_charts()]
    shares = [[round(bar["share"], 6) for bar in chart.pop("bars")] for chart in found]
    return {"title": report_title(), "charts": found, "shares": shares}


def report_charts() -> list[Chart]:
    found = {chart.name: chart for chart in charts(kept_study())}
    return [found[name] for name in CHARTS]


def report_title() -> str:
    study = kept_study()
    return f"{study.problem} on an {study.device.title}: {len(study.trials)} configs tried, {len(study.passed)} passed"


def kept_study() -> StudyTrials:
    (study,) = read_studies(str(STUDY))
    return read_study(study)


def draw_report(path: Path) -> None:
    from kgen.analysis.figure import new_figure, save
    from kgen.report.figures import draw_chart

    figure = new_figure(path, 14, 4.2)
    figure.suptitle(report_title())
    for chart, part in zip(report_charts(), figure.subfigures(1, len(CHARTS)), strict=True):
        draw_chart(chart, part)
    save(figure, path)


NUMBERS: Mapping[str, Callable[[], Any]] = {
    "waterline": waterline_numbers,
    "gap": gap_numbers,
    "report": report_numbers,
}


def main() -> None:
    from kgen.analysis.gap_plot import draw
    from kgen.analysis.waterline_plot import save_plot

    device = find_device("h200")
    sequences = problem_sequences(BLOCK, device, packaged_dir())
    save_plot(FOLDER / "waterline.png", f"{BLOCK}, {device.title}", sequences)
    draw(gap_marks(), f"Efficiency gap on an {device.title} at batch {BATCH}", FOLDER / "gap.png")
    draw_report(FOLDER / "report.png")
    for name, numbers in NUMBERS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(numbers(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
