"""Processes that search beside the one that started them: what they leave when they end."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from kgen.search import helpers
from kgen.search.helpers import Helpers
from kgen.search.storage import join_study, open_study
from optuna.trial import TrialState

NAME = "one"


def ask_and_forget(journal: str) -> None:
    """Hold a trial as a search does that is told to end before it knows of what it asked for."""
    with join_study(journal, NAME) as study:
        study.ask()
        study.own.clear()
        Path(f"{journal}.asked").touch()
        time.sleep(60)


def test_a_helper_told_to_end_while_it_asks_leaves_no_trial_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "CONTEXT", multiprocessing.get_context("fork"))
    journal = str(tmp_path / "a.journal")
    with open_study(journal, NAME) as study:
        with Helpers(study, ask_and_forget, [journal]):
            while not Path(f"{journal}.asked").exists():
                time.sleep(0.01)
            assert len(study.get_trials(states=(TrialState.RUNNING,))) == 1
        assert study.get_trials(states=(TrialState.RUNNING,)) == []
        assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL]
