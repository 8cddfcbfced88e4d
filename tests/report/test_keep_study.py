"""benchmarks/keep_study.py: a small copy of a study, on which a report says the same."""

from __future__ import annotations

import sys
from pathlib import Path

import keep_study
import pytest
from kgen.search.storage import read_studies
from report_samples import TRIALS

from kgen.errors import ProblemError
from kgen.report import StudyTrials, read_study


def test_a_report_reads_the_same_from_what_is_kept(journal: str, study: StudyTrials, tmp_path: Path) -> None:
    kept = tmp_path / "kept.journal"
    assert keep_study.keep(journal, "sample", kept) == len(study.trials) == len(TRIALS) - 1  # one is a repetition
    (found,) = read_studies(str(kept))
    assert read_study(found) == study
    assert kept.stat().st_size < Path(journal).stat().st_size / 2
    (original,) = read_studies(journal)
    for trial, copy in zip(original.trials, found.trials, strict=True):
        assert trial.number == 4 or (trial.datetime_start, trial.datetime_complete) == (
            copy.datetime_start,
            copy.datetime_complete,
        )


def test_nothing_is_overwritten(journal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path(journal).read_bytes()
    with pytest.raises(ProblemError, match="is kept in a new file"):
        keep_study.keep(journal, "sample", Path(journal))
    assert Path(journal).read_bytes() == before
    for arguments in ((journal,), (journal, "other", str(tmp_path / "new.journal"))):
        monkeypatch.setattr(sys, "argv", ["keep_study.py", *arguments])
        assert keep_study.main() == 2
    assert not (tmp_path / "new.journal").exists()
