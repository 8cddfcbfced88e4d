"""Tuners killed at random moments: at most the running trial is lost, and none stays RUNNING."""

from __future__ import annotations

import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import pytest
from kgen.search.history import History
from kgen.search.storage import open_study
from kill_target import DELAY_S, NAME, evaluated, most_done, start, wait_for, wait_for_none_running
from optuna.trial import TrialState
from search_fakes import FakeBench, config_from_json, make_search, plan

pytestmark = pytest.mark.usefixtures("quick")

KILLS = 20


def check(study: optuna.Study) -> History:
    """What is known of a study, of which no candidate was evaluated twice."""
    history = History(study, config_from_json, plan)
    assert len(evaluated(study)) == len(set(evaluated(study))) == history.evaluated
    assert set(history.failures) <= {"crashed"}  # what two tuners died of
    return history


def kill(tuner: BaseProcess) -> None:
    tuner.kill()
    tuner.join()
    assert tuner.exitcode == -signal.SIGKILL


@pytest.mark.timeout(120)
def test_tuners_killed_at_random_lose_at_most_the_running_trial(tmp_path: Path) -> None:
    journal, log, draw = tmp_path / "a.journal", tmp_path / "log", random.Random(0)
    crashed = 0
    for seed in range(KILLS):
        tuner = start(str(journal), 1000, seed, log)
        known = most_done(log) + draw.randrange(3)  # none: it may be killed while it starts
        wait_for(lambda known=known: most_done(log) >= known)  # type: ignore[misc]
        time.sleep(draw.random() * 2 * DELAY_S)
        kill(tuner)
        with open_study(str(journal), NAME) as study:
            history = check(study)
            # One more may have been recorded than was reported, and one that was killed twice is recorded as crashed.
            new, crashed = history.failures["crashed"] - crashed, history.failures["crashed"]
            assert most_done(log) <= history.evaluated - new <= most_done(log) + 1
            assert not study.get_trials(states=(TrialState.RUNNING,))
    assert history.evaluated > KILLS
    with open_study(str(journal), NAME) as study:
        make_search(study, FakeBench(), history.evaluated + 5).run()
        assert check(study).evaluated == history.evaluated + 5


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tuners_of_a_server_killed_at_random_lose_nothing_finished(tmp_path: Path, database: str) -> None:
    log, draw = tmp_path / "log", random.Random(0)
    survivor = start(database, 40, KILLS, log)
    for seed in range(KILLS):
        tuner = start(database, 1000, seed, log)
        time.sleep(draw.random() * 0.8)  # of which opening the study takes a part
        kill(tuner)
    survivor.join()
    with open_study(database, NAME) as study:
        before = check(study).evaluated
        assert max(40, most_done(log)) <= before
        make_search(study, FakeBench(), before + 5).run()
        assert before + 5 <= check(study).evaluated <= before + 7
        wait_for_none_running(study)
