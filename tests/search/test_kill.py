"""SIGKILL at any moment loses at most the running trial."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kgen.search.history import DUPLICATE_OF, History
from kgen.search.storage import open_study
from optuna.trial import TrialState
from search_fakes import config_from_json, plan

TARGET = Path(__file__).with_name("kill_target.py")
TRIALS = 60


def start(journal: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(TARGET), str(journal), str(TRIALS), "0.02", str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_at_random(journal: Path, seed: int, draw: random.Random) -> int:
    """Start the search, let it finish some trials, kill it in the midst of one; how many were done by then."""
    process = start(journal, seed)
    assert process.stdout is not None
    wanted = int(process.stdout.readline()) + draw.randint(0, 12)
    done = 0
    for line in process.stdout:
        done = int(line)
        if done >= wanted:
            break
    time.sleep(draw.random() * 0.03)
    process.kill()
    done = max([done, *map(int, process.stdout.read().split())])
    process.wait()
    return done


@pytest.mark.timeout(120)
def test_sigkill_loses_at_most_the_running_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    journal, draw = tmp_path / "a.journal", random.Random(0)
    crashed = 0
    for seed in range(4):
        done = kill_at_random(journal, seed, draw)
        with open_study(str(journal), "killed") as study:
            history = History(study, config_from_json, plan)
            # One more may have been recorded than was reported, and one that was killed twice is recorded as crashed.
            new, crashed = history.failures["crashed"] - crashed, history.failures["crashed"]
            assert done <= history.evaluated - new <= done + 1
            assert not study.get_trials(states=(TrialState.RUNNING,))
    process = start(journal, 9)
    process.communicate()
    assert process.returncode == 0
    with open_study(str(journal), "killed") as study:
        ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        evaluated = [str(t.user_attrs["config"]) for t in ended if DUPLICATE_OF not in t.user_attrs]
        assert len(evaluated) == len(set(evaluated)) == TRIALS
