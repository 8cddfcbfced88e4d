"""What goes wrong in the middle of a search ends no study: it goes on, and nothing that was finished is lost."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from kgen.search import Snapshot, saving, tune, tuner
from kgen.search.evaluate import Evaluation
from kgen.search.storage import open_study, read_studies
from kill_target import NAME, evaluated, most_done, start
from optuna.trial import TrialState
from planted import LAST_COLUMN, Planted, Replaced, truth_but
from search_fakes import FakeBench, FakeProgram, efficiency_of, make_search
from test_tuner import FILE, NAMED, PROBLEM, FakePool, FakeWorker, cached_favourites, fewer_choices

from kgen import tuned
from kgen.blocks.convfirst import default_config
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.compile import Cubin
from kgen.worker import Job, Outcome, Result, Worker

TINY = ConvFirst(2, 3, 4, 16, expansion=1)
TINY_JOB = Job(TINY, default_config(TINY, NAMED), NAMED, Cubin(b"", "sm_90", "", {}, "", 0.0))


@pytest.fixture(autouse=True)
def own_folders(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.blocks.convfirst.favourites", cached_favourites)
    monkeypatch.setattr("kgen.blocks.convfirst.choices", fewer_choices)
    monkeypatch.setattr(tuner, "CompilePool", FakePool)
    monkeypatch.setattr(tuner, "_check_tools", lambda device: None)


def running(study: optuna.Study) -> list[Any]:
    return study.get_trials(states=(TrialState.RUNNING,))


class BadWorker(Worker):
    """A worker process whose first candidates are bad, each in its way."""

    ran = 0

    def run(self, job: Job, timeout_s: float, *meanwhile: Callable[[], object]) -> Result:
        portable = default_config(job.problem, job.device)
        last_column = truth_but(job.problem, portable, job.device, LAST_COLUMN)
        bad = (
            Planted("time.sleep(1000)"),
            Planted("os.kill(os.getpid(), signal.SIGSEGV)"),
            Replaced.of(portable, "y[-1] = 0;"),
            Replaced.of(portable, last_column),
        )
        config = (*bad, job.config)[min(BadWorker.ran, len(bad))]
        BadWorker.ran += 1
        return super().run(replace(job, config=config), 0.5 if config is bad[0] else timeout_s, *meanwhile)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_compiler")
def test_bad_candidates_are_recorded_and_the_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "Worker", BadWorker)
    monkeypatch.setattr(BadWorker, "ran", 0)
    snapshots: list[Snapshot] = []
    where = {"out": tmp_path / "out", "storage": str(tmp_path / "a.journal"), "budget_s": 100, "seed": 0}
    entry = tune(PROBLEM, NAMED, trials=5, progress=snapshots.append, **where)  # type: ignore[arg-type]
    assert snapshots[-1].failures == {"timeout": 1, "crashed": 1, "wrong_answer": 2}
    (study,) = read_studies(str(tmp_path / "a.journal"))
    reasons = " ".join(trial.user_attrs.get("reason", "") for trial in study.trials)
    for words in ("still running", "ended with SIGSEGV", "bytes next to y changed", "relative error"):
        assert words in reasons
    (saved,) = tuned.load_file(tmp_path / "out" / FILE).entries
    assert running(study) == [] and saved.config == entry.config
    ran = BadWorker.ran
    assert tune(PROBLEM, NAMED, trials=5, **where).trials == 5 and BadWorker.ran == ran  # type: ignore[arg-type]


class KilledWorkerBench(FakeBench):
    """Runs a good candidate in a worker process that is killed before, while or after it runs."""

    def __init__(self, kills: int) -> None:
        super().__init__()
        self.kills = kills
        self._worker = Worker(NAMED)
        self._draw = random.Random(0)

    def finish(self, program: FakeProgram, *_: Any, **__: Any) -> Evaluation:
        self._worker.run(TINY_JOB, 60)  # in a new child, if the last one was killed
        runs_s = self._worker.run(TINY_JOB, 60).seconds
        killer = threading.Timer(self._draw.random() * 1.5 * runs_s, self._kill)
        if self.kills:
            self.kills -= 1
            killer.start()
        result = self._worker.run(TINY_JOB, 60)
        if killer.is_alive():
            killer.join()
        good = result.outcome is Outcome.OK
        share = efficiency_of(program.config) if good else None
        return Evaluation(result.outcome, result.reason, efficiency=share, verified=good, compiled=True)

    def _kill(self) -> None:
        child = self._worker._child
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(child._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._worker.close()


@pytest.mark.slow
def test_a_worker_killed_at_random_ends_no_study() -> None:
    study, bench = optuna.create_study(direction="maximize"), KilledWorkerBench(20)
    try:
        search = make_search(study, bench, 30)
        search.run()
    finally:
        bench.close()
    assert search.history.evaluated == 30 and bench.kills == 0 and running(study) == []
    assert set(search.history.failures) == {"crashed"} and "ended with SIGKILL" in search.history.last_failure
    assert search.history.failures["crashed"] <= 20


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("journal", r"writing .*studies failed \(File too large\)"),
        pytest.param("sqlite", r"writing sqlite:.*studies failed \(.*\)", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_full_loses_nothing_finished(kind: str, sentence: str, tmp_path: Path) -> None:
    file, log = tmp_path / "studies", tmp_path / "log"
    storage, limits = (str(file), (30_000, 60_000)) if kind == "journal" else (f"sqlite:///{file}", (125_000,))
    for most_bytes in limits:
        start(storage, 1000, 0, log, most_bytes).join()
        said = log.read_text().splitlines()[-1]
        assert re.search(f"{sentence}; free some space.* same command goes on", said), said
        assert file.stat().st_size <= most_bytes
        with open_study(storage, NAME) as study:
            assert len(evaluated(study)) == len(set(evaluated(study))) >= most_done(log) > 0
            assert running(study) == []


class JumpingClock(datetime):
    """One that is set back or forward by a day each time it is looked at."""

    day = 0

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        cls.day = (5 * cls.day + 3) % 8
        return datetime.now(tz) + timedelta(days=cls.day - 4)


@pytest.mark.usefixtures("no_compiler")
def test_a_machines_clock_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "said", {}, raising=False)
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.0")
    monkeypatch.setattr("optuna.storages.journal._storage.datetime", JumpingClock)
    monkeypatch.setattr(saving, "datetime", JumpingClock)
    monkeypatch.setattr(time, "time", lambda: JumpingClock.now().timestamp())
    local, where = replace(NAMED, ordinal=0), {"out": tmp_path / "out", "storage": str(tmp_path / "a.journal")}
    for trials in (6, 9):
        entry = tune(PROBLEM, local, trials=trials, budget_s=60, **where)  # type: ignore[arg-type]
        assert entry.trials == trials and 0 < entry.seconds < 60
        assert [one.trials for one in tuned.load_file(tmp_path / "out" / FILE).entries] == [trials]
    start_s = time.monotonic()
    tune(PROBLEM, local, trials=10_000, budget_s=0.5, **where)  # type: ignore[arg-type]
    assert 0.5 < time.monotonic() - start_s < 20
    (study,) = read_studies(where["storage"])  # type: ignore[arg-type]
    assert running(study) == [] and len(evaluated(study)) >= 9
    took = [trial.datetime_complete < trial.datetime_start for trial in study.trials if trial.datetime_complete]
    assert any(took) and not all(took)
