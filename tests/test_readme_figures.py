"""The README's figures are those of the committed data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import readme_figures

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", readme_figures.NUMBERS)
def test_a_figure_was_drawn_from_the_numbers_of_today(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path))
    drawn = json.loads((readme_figures.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    today = json.loads(json.dumps(readme_figures.NUMBERS[name]()))
    assert drawn == today, "run python benchmarks/readme_figures.py"
    assert f"docs/figures/{name}.png" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (readme_figures.FOLDER / f"{name}.png").stat().st_size > 5000
