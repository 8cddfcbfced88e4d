"""A search on fakes in a process that a test kills; being forked, it starts at once."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
from kgen.search.history import DUPLICATE_OF
from kgen.search.progress import Snapshot
from kgen.search.storage import open_study
from optuna.trial import FrozenTrial, TrialState
from search_fakes import DEFAULT, FakeBench, make_search

from kgen.errors import StudyError

NAME = "killed"
DELAY_S = 0.02
"""What a candidate takes."""


def start(storage: str, trials: int, seed: int, log: Path, most_bytes: int = resource.RLIM_INFINITY) -> BaseProcess:
    """A tuner that appends to ``log`` how many candidates it knows to have ended, or why its study ended.

    None of its files may grow beyond ``most_bytes``.
    """
    arguments = (storage, trials, seed, log, most_bytes)
    process = multiprocessing.get_context("fork").Process(target=_tune, args=arguments)
    process.start()
    return process


def most_done(log: Path) -> int:
    """How many candidates had ended when a tuner last said so."""
    return max((int(line) for line in log.read_text().splitlines() if line.isdigit()), default=0) if log.exists() else 0


def evaluated(study: optuna.Study) -> list[str]:
    """Configs that were evaluated, once for each time."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [str(trial.user_attrs["config"]) for trial in ended if DUPLICATE_OF not in trial.user_attrs]


def wait_for_none_running(study: optuna.Study) -> None:
    """Until the trials of dead tuners were freed."""
    wait_for(lambda: not study.get_trials(states=(TrialState.RUNNING,)))


def wait_for_retries(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The trials that are to be tried again, once there are so many: a trial is freed first, and then enqueued."""
    wait_for_none_running(study)
    wait_for(lambda: len(study.get_trials(states=(TrialState.WAITING,))) == count)
    return study.get_trials(states=(TrialState.WAITING,))


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def _tune(storage: str, trials: int, seed: int, log: Path, most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))

    def say(what: object) -> None:
        with log.open("a") as file:
            file.write(f"{what}\n")

    def report(snapshot: Snapshot) -> None:
        say(snapshot.done)

    try:
        with open_study(storage, NAME) as study:
            search = make_search(study, FakeBench(delay_s=DELAY_S), trials, seed=seed, report=report)
            search.seed([DEFAULT])
            search.run()
    except StudyError as error:
        say(error)
