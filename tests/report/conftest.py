"""The sample study, in a journal of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from kgen.search.storage import read_studies
from report_samples import write

from kgen.report import StudyTrials, read_study


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return write(tmp_path / "sample.journal")


@pytest.fixture
def study(journal: str) -> StudyTrials:
    (found,) = read_studies(journal)
    return read_study(found)
