"""tune(): what is saved and when, what is never replaced, and a real search without a GPU."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kgen.search import Found, SearchInterrupted, Snapshot, find, helpers, open_bench, shared, silent, tune, tuner
from kgen.search.about import About
from kgen.search.objectives import parse_objectives
from kgen.search.shared import PROCESS
from kgen.search.storage import open_study, read_studies
from optuna.trial import TrialState

from kgen import tuned
from kgen.blocks.convfirst import choices, favourites
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.budget import Budget
from kgen.compile import Cubin, Resources
from kgen.devices import Device, find_device, local_devices
from kgen.env import nvrtc_version
from kgen.errors import CompileError, DeviceError, ProblemError, StudyError, TunedConfigError
from kgen.machine import efficiency
from kgen.tuned import Measurement, load_file
from kgen.worker import Job, Outcome, Result

NAMED = find_device("h200")
LOCAL = replace(NAMED, ordinal=0)
PROBLEM = ConvFirst(1, 7, 7, 16)
FILE = Path("convfirst") / "nvidia-h200.json"

cached_favourites = lru_cache(favourites)


def fewer_choices(problem: ConvFirst, device: Device) -> dict[str, Any]:
    """Those of sides that are listed in no time."""
    return {side: fields for side, fields in choices(problem, device).items() if side in ("wgmma_fused", "cluster")}


needs_nvrtc = pytest.mark.skipif(nvrtc_version() is None, reason="needs NVRTC, which the extra cuda13 brings")


class FakePool:
    def __init__(self, processes: int) -> None:
        assert processes >= 1

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, source: Any, arch: str) -> Future[Cubin]:
        future: Future[Cubin] = Future()
        future.set_result(Cubin(b"", arch, source.digest, {"kernel": Resources(64, 0, 0, 0, 0)}, "", 0.1))
        return future


def timed_at(time_us: float) -> Result:
    """Of a problem for which a microsecond is ideal."""
    measured = Measurement(time_us, time_us, time_us, 1 / time_us, 0.0)
    return Result(Outcome.OK, measured=measured, error=0.0, shots_us=(time_us,) * 10)


def timed(time_us: float, job: Job, error: float = 1e-4) -> Result:
    share = efficiency(job.problem.flops, time_us, job.device)
    measured = Measurement(time_us, time_us, time_us, share, error)
    return Result(Outcome.OK, measured=measured, error=error, shots_us=(time_us,) * 10)


class FakeWorker:
    """Measures every job at ``latency_us``, unless ``answer`` has something else to say of the nth job.

    A final repeats what was said of a config last.
    """

    said: ClassVar[dict[Any, Result]]
    latency_us = 10.0
    answer: Callable[[int], Result | None] = staticmethod(lambda number: None)

    def __init__(self, device: Any) -> None:
        self.jobs = 0

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, job: Job, timeout_s: float, *meanwhile: Callable[[], object]) -> Result:
        self.jobs += 1
        self.said[job.config] = type(self).answer(self.jobs) or self._usual(job)
        return self.said[job.config]

    def _usual(self, job: Job) -> Result:
        if job.device.ordinal is None:
            return Result(Outcome.OK, error=1e-4)
        return timed(type(self).latency_us + self.jobs, job)

    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        return tuple(self.said[job.config] for job in jobs)


@pytest.fixture(autouse=True)
def own_folders(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))
    monkeypatch.setattr("kgen.blocks.convfirst.favourites", cached_favourites)  # a second each, and always the same
    monkeypatch.setattr("kgen.blocks.convfirst.choices", fewer_choices)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    class Worker(FakeWorker):
        said: ClassVar[dict[Any, Result]] = {}

    monkeypatch.setattr(tuner, "CompilePool", FakePool)
    monkeypatch.setattr(tuner, "Worker", Worker)
    monkeypatch.setattr(tuner, "_check_tools", lambda device: None)
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.0")
    return Worker


def entries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / FILE).read_bytes())["entries"]
    return found


def test_a_measured_search_saves_the_best(fakes: type[FakeWorker], tmp_path: Path) -> None:
    entry = tune(PROBLEM, LOCAL, trials=5, budget_s=60, out=tmp_path / "out")
    assert entry.measured is not None and entry.measured.median_us == 11.0  # the first is the fastest
    assert (entry.trials, entry.error, entry.problem) == (5, 1e-4, PROBLEM)
    assert entry.modelled_us is not None and entry.intensity > 0 and 0 < entry.attainable_efficiency <= 1
    (saved,) = entries(tmp_path / "out")
    assert saved["measured"]["median_us"] == 11.0 and saved["config"] == entry.config.to_json()
    tune(PROBLEM, LOCAL, trials=6, budget_s=60)
    assert entries(tmp_path / "user")[0]["trials"] == 6


def test_the_study_says_what_it_is_of(fakes: type[FakeWorker], tmp_path: Path) -> None:
    for _ in range(2):
        tune(PROBLEM, LOCAL, trials=1, budget_s=60, storage=str(tmp_path / "a.journal"))
        (study,) = read_studies(str(tmp_path / "a.journal"))
        assert About.read(study) == About(PROBLEM, LOCAL)


def test_every_improvement_is_saved_at_once(fakes: type[FakeWorker], tmp_path: Path) -> None:
    seen: list[float] = []

    def answer(number: int) -> Result | None:
        if (tmp_path / "out" / FILE).exists():
            seen.append(entries(tmp_path / "out")[0]["measured"]["median_us"])
        return timed_at(100.0 - 10 * number)

    fakes.answer = staticmethod(answer)
    tune(PROBLEM, LOCAL, trials=4, budget_s=60, out=tmp_path / "out")
    assert seen == [90.0, 80.0, 70.0]


def test_the_final_decides_what_is_saved_and_who_tied(fakes: type[FakeWorker], tmp_path: Path) -> None:
    """Not the times of different moments, by which another config was better."""
    finals: list[list[Any]] = []

    def run_together(self: FakeWorker, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        finals.append([job.config for job in jobs])
        return tuple(timed(20.0 - 0.01 * (number < 2), job) for number, job in enumerate(jobs))

    fakes.run_together = run_together  # type: ignore[method-assign]
    fakes.latency_us = 1000.0  # one more each, so that all are near each other
    only = {"budget": Budget(60), "out": tmp_path, "sampler": "kgen", "seed": 0, "progress": silent}
    first = find(PROBLEM, LOCAL, trials=5, storage=str(tmp_path / "1"), **only).entry
    (configs,) = finals
    assert len(configs) == 5 and first.measured is not None and first.measured.median_us in (19.99, 20.0)
    assert first.tied is not None and {first.config, *first.tied} == set(configs)
    (saved,) = entries(tmp_path)
    assert saved["config"] == first.config.to_json() and len(saved["tied"]) == 4
    second = find(PROBLEM, LOCAL, trials=5, storage=str(tmp_path / "2"), **only)
    assert second.kept is None and second.entry.config in (first.config, *first.tied)


def test_ctrl_c_in_a_later_search_keeps_what_a_final_found(fakes: type[FakeWorker], tmp_path: Path) -> None:
    first = tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=tmp_path, storage=str(tmp_path / "1"))
    before = entries(tmp_path)

    def answer(number: int) -> Result | None:
        if number == 2:
            raise KeyboardInterrupt
        return None

    fakes.answer = staticmethod(answer)
    fakes.latency_us = 20.0
    with pytest.raises(SearchInterrupted) as caught:
        tune(PROBLEM, LOCAL, trials=9, budget_s=60, out=tmp_path, storage=str(tmp_path / "2"))
    assert caught.value.found is not None and caught.value.found.entry.config == first.config
    assert entries(tmp_path) == before and first.tied == ()


def test_what_failed_in_the_final_does_not_stay_saved(fakes: type[FakeWorker], tmp_path: Path) -> None:
    def run_together(self: FakeWorker, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        return (Result(Outcome.WRONG_ANSWER, "it is wrong now"), *(timed(20.0, job) for job in jobs[1:]))

    fakes.run_together = run_together  # type: ignore[method-assign]
    fakes.latency_us = 1000.0
    entry = tune(PROBLEM, LOCAL, trials=3, budget_s=60, out=tmp_path)
    assert entry.measured is not None and entry.measured.median_us == 20.0
    (saved,) = entries(tmp_path)
    assert saved["config"] == entry.config.to_json()


def test_a_modelled_search_has_no_final(fakes: type[FakeWorker], tmp_path: Path) -> None:
    fakes.run_together = None  # type: ignore[method-assign, assignment]
    assert tune(PROBLEM, NAMED, trials=2, budget_s=60, out=tmp_path).tied is None


def test_ctrl_c_keeps_the_best_so_far(fakes: type[FakeWorker], tmp_path: Path) -> None:
    def answer(number: int) -> Result | None:
        if number == 3:
            raise KeyboardInterrupt
        return None

    fakes.answer = staticmethod(answer)
    with pytest.raises(SearchInterrupted) as caught:
        tune(PROBLEM, LOCAL, trials=9, budget_s=60, out=tmp_path / "out")
    assert caught.value.found is not None and caught.value.found.entry.trials == 2
    assert entries(tmp_path / "out")[0]["trials"] == 2
    fakes.answer = staticmethod(lambda number: None)
    assert tune(PROBLEM, LOCAL, trials=9, budget_s=60, out=tmp_path / "out").trials == 9


def test_ctrl_c_before_anything_was_found(fakes: type[FakeWorker], tmp_path: Path) -> None:
    def answer(number: int) -> Result | None:
        raise KeyboardInterrupt

    fakes.answer = staticmethod(answer)
    with pytest.raises(SearchInterrupted) as caught:
        tune(PROBLEM, LOCAL, trials=9, budget_s=60, out=tmp_path / "out")
    assert caught.value.found is None and not (tmp_path / "out").exists()


def test_wrong_ones_are_passed_over_in_a_modelled_search(fakes: type[FakeWorker], tmp_path: Path) -> None:
    fakes.answer = staticmethod(lambda number: Result(Outcome.WRONG_ANSWER, "it is wrong") if number < 3 else None)
    snapshots: list[Snapshot] = []
    entry = tune(PROBLEM, NAMED, trials=8, budget_s=60, out=tmp_path / "out", progress=snapshots.append)
    assert entry.measured is None and entry.modelled_us is not None and entry.error == 1e-4
    assert snapshots[-1].failures["wrong_answer"] == 2 and not snapshots[-1].measured
    assert entries(tmp_path / "out")[0]["measured"] is None


def test_a_search_in_which_nothing_passes_says_why(fakes: type[FakeWorker], tmp_path: Path) -> None:
    fakes.answer = staticmethod(lambda number: Result(Outcome.CRASHED, "the sky fell"))
    with pytest.raises(StudyError, match=r"none did .*3 crashed.*the sky fell"):
        tune(PROBLEM, LOCAL, trials=3, budget_s=60, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_modelled_entry_never_replaces_a_measured_one(fakes: type[FakeWorker], tmp_path: Path) -> None:
    tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=tmp_path / "out")
    before = (tmp_path / "out" / FILE).read_bytes()
    with pytest.raises(TunedConfigError, match="must not replace a measured entry"):
        tune(PROBLEM, NAMED, trials=2, budget_s=60, out=tmp_path / "out")
    assert (tmp_path / "out" / FILE).read_bytes() == before
    tune(replace(PROBLEM, batch=2), NAMED, trials=2, budget_s=60, out=tmp_path / "out")
    assert len(entries(tmp_path / "out")) == 2


def test_searches_one_after_the_other_may_share_a_bench(fakes: type[FakeWorker], tmp_path: Path) -> None:
    only = {"budget": Budget(60), "sampler": "kgen", "seed": 0, "progress": silent, "out": tmp_path, "storage": None}
    with open_bench(LOCAL) as bench:
        worker = bench._worker
        for batch in (1, 2):
            found = find(replace(PROBLEM, batch=batch), LOCAL, trials=3, bench=bench, **only)
            assert found.entry.trials == 3
        assert isinstance(worker, FakeWorker) and worker.jobs == 6
    assert len(entries(tmp_path)) == 2


def test_a_slower_measurement_does_not_replace_a_faster_one(fakes: type[FakeWorker], tmp_path: Path) -> None:
    out = tmp_path / "out"
    only = {"budget": Budget(60), "out": out, "sampler": "kgen", "seed": 0, "progress": silent}
    fakes.answer = staticmethod(lambda number: Result(Outcome.WRONG_ANSWER, "no") if number == 1 else None)
    first = find(PROBLEM, LOCAL, trials=2, storage=str(tmp_path / "1"), **only)
    fakes.latency_us = 50.0
    second = find(PROBLEM, LOCAL, trials=2, storage=str(tmp_path / "2"), **only)
    assert second.kept is not None and second.kept.config == first.entry.config != second.entry.config
    assert entries(out)[0]["measured"]["median_us"] == 12.0
    fakes.answer, fakes.latency_us = staticmethod(lambda number: None), 1.0
    third = find(PROBLEM, LOCAL, trials=1, storage=str(tmp_path / "3"), **only)
    assert third.kept is None and entries(out)[0]["measured"]["median_us"] == 2.0


def test_of_two_tuners_of_a_problem_the_slower_never_replaces_the_faster(
    fakes: type[FakeWorker], tmp_path: Path
) -> None:
    """Not even when the faster one's entry was saved after the slower one had started."""
    out = tmp_path / "out"

    def answer(number: int) -> Result | None:
        if number == 2:
            fakes.latency_us, fakes.answer = 1.0, staticmethod(lambda number: None)
            tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=out, storage=str(tmp_path / "2"), seed=1)
            fakes.latency_us = 30.0
        return Result(Outcome.WRONG_ANSWER, "no") if number == 1 else None

    fakes.answer = staticmethod(answer)
    slower = {"budget": Budget(60), "out": out, "storage": str(tmp_path / "1"), "sampler": "kgen", "seed": 0}
    found = find(PROBLEM, LOCAL, trials=4, progress=silent, **slower)
    assert found.kept is not None and found.kept.measured is not None and found.kept.measured.median_us == 2.0
    assert [one["measured"]["median_us"] for one in entries(out)] == [2.0]


def test_a_full_disk_ends_the_search_with_a_sentence_and_keeps_file_and_study(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, where = tmp_path / "out", {"budget_s": 60, "out": tmp_path / "out", "storage": str(tmp_path / "a.journal")}
    tune(replace(PROBLEM, batch=2), LOCAL, trials=1, budget_s=60, out=out)
    before = (out / FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kgen.env.Path.replace", full)
        with pytest.raises(TunedConfigError, match=r"nvidia-h200\.json failed \(No space left on device\); choose"):
            tune(PROBLEM, LOCAL, trials=3, **where)
    assert (out / FILE).read_bytes() == before
    assert [path.name for path in (out / FILE).parent.glob("*.tmp")] == []
    assert tune(PROBLEM, LOCAL, trials=3, **where).measured is not None
    assert len(entries(out)) == 2


class TwoGpus:
    """Workers of two GPUs, whose processes log what they measure; ``fate`` is what becomes of the second's process."""

    def __init__(self, log: Path, fate: Callable[[int], None] = lambda number: None) -> None:
        self._log = log
        self._fate = fate

    def __call__(self, device: Device) -> FakeWorker:
        two = self

        class Worker(FakeWorker):
            def run(self, job: Job, timeout_s: float, *meanwhile: Callable[[], object]) -> Result:
                time.sleep(0.05)
                if device.ordinal == 1:
                    two._fate(self.jobs)
                self.jobs += 1
                time_us = 50.0 - 20 * (device.ordinal == 1) + self.jobs
                with two._log.open("a") as log:
                    log.write(json.dumps([device.ordinal, os.getpid(), str(job.config), time_us]) + "\n")
                return timed(time_us, job)

            def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
                times_us = {config: time_us for *_, config, time_us in map(json.loads, two._log.open())}
                return tuple(timed(times_us[str(job.config)], job) for job in jobs)

        return Worker(device)

    @property
    def measured(self) -> list[tuple[int, int, str]]:
        return [(ordinal, pid, config) for ordinal, pid, config, _ in map(json.loads, self._log.open())]


@pytest.fixture
def forked(fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "CONTEXT", multiprocessing.get_context("fork"))  # which inherits the fakes


def find_on_two(tmp_path: Path, trials: int, *, budget_s: float = 60, **more: Any) -> Found:
    others, out = [replace(LOCAL, ordinal=1)], tmp_path / "out"
    only = {"budget": Budget(budget_s), "seed": 0, "progress": silent, "storage": None, "sampler": "kgen"} | more
    return find(PROBLEM, LOCAL, others=others, trials=trials, out=out, **only)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("storage", ["journal", "server"])
def test_two_gpus_share_a_search_and_its_best_is_saved(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    gpus = TwoGpus(tmp_path / "log")
    snapshots: list[Snapshot] = []
    monkeypatch.setattr(tuner, "Worker", gpus)
    where = None if storage == "journal" else request.getfixturevalue("database")
    found = find_on_two(tmp_path, 20, storage=where, progress=snapshots.append)
    measured = gpus.measured
    assert {ordinal for ordinal, _, _ in measured} == {0, 1} and len({pid for _, pid, _ in measured}) == 2
    configs = [config for *_, config in measured]
    assert len(configs) == len(set(configs)) and 20 <= len(configs) <= 22
    assert found.entry.measured is not None and found.entry.measured.median_us == 31.0  # the second's first
    assert entries(tmp_path / "out")[0]["measured"]["median_us"] == 31.0 and found.kept is None
    assert snapshots[-1].done == found.entry.trials == len(configs) and snapshots[-1].best_us == 31.0


@pytest.mark.usefixtures("forked")
def test_a_gpus_process_that_dies_leaves_its_candidates_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fate(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    gpus = TwoGpus(tmp_path / "log", fate)
    monkeypatch.setattr(tuner, "Worker", gpus)
    with pytest.warns(UserWarning, match="one GPU's search ended with exit code -9; the others go on"):
        found = find_on_two(tmp_path, 20, storage=str(tmp_path / "a.journal"))
    configs = [config for *_, config in gpus.measured]
    assert len(configs) == len(set(configs)) and found.entry.trials >= 20
    assert [ordinal for ordinal, *_ in gpus.measured].count(1) == 2
    (study,) = read_studies(str(tmp_path / "a.journal"))
    assert study.get_trials(states=(TrialState.RUNNING,)) == []


def tune_ever_faster(storage: str, out: Path, seed: int) -> None:
    """A tuner whose every candidate is the best so far, and saved."""
    tune(PROBLEM, LOCAL, trials=10_000, budget_s=60, out=out, storage=storage, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tuners_killed_at_random_leave_a_file_that_is_valid_and_a_study_without_running_trials(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    def answer(number: int) -> Result:
        return timed_at(2e3 - (time.time() - start_s))

    start_s, draw, out, medians = time.time(), random.Random(0), tmp_path / "out", [2e3]
    fakes.answer = staticmethod(answer)
    monkeypatch.setattr(shared, "HEARTBEAT_S", 1)
    monkeypatch.setattr(shared, "GRACE_S", 2)
    for seed in range(3):
        arguments = [(database, out, 2 * seed + number) for number in range(2)]
        tuners = [multiprocessing.get_context("fork").Process(target=tune_ever_faster, args=one) for one in arguments]
        for tuner_process in tuners:
            tuner_process.start()
        while not (out / FILE).exists() or entries(out)[0]["measured"]["median_us"] == medians[-1]:
            time.sleep(0.05)
        time.sleep(draw.random())
        for tuner_process in tuners:
            tuner_process.kill()
            tuner_process.join()
        (saved,) = tuned.load_file(out / FILE).entries
        assert saved.measured is not None
        medians.append(saved.measured.median_us)
    assert medians == sorted(medians, reverse=True)  # nothing saved was lost
    (study,) = read_studies(database)
    with open_study(database, study.study_name):
        end_s = time.monotonic() + 20
        while study.get_trials(states=(TrialState.RUNNING,)):
            assert time.monotonic() < end_s
            time.sleep(0.2)
    best = max(trial.value or 0.0 for trial in study.get_trials(states=(TrialState.COMPLETE,)))
    assert best >= 1 / (medians[-1] + 1e-3)  # a file has nanoseconds


@pytest.mark.usefixtures("forked")
def test_ctrl_c_ends_the_other_gpus_search_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = TwoGpus(tmp_path / "log")
    monkeypatch.setattr(tuner, "Worker", gpus)

    def interrupt(snapshot: Snapshot) -> None:
        if snapshot.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as caught:
        find_on_two(tmp_path, 500, storage=str(tmp_path / "a.journal"), progress=interrupt)
    assert caught.value.found is not None and multiprocessing.active_children() == []
    (study,) = read_studies(str(tmp_path / "a.journal"))
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
    assert find_on_two(tmp_path, 20, storage=str(tmp_path / "a.journal")).entry.trials >= 20


def test_a_corrupt_file_is_refused_before_the_search(fakes: type[FakeWorker], tmp_path: Path) -> None:
    path = tmp_path / "out" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"schema_version": 1, "entr')
    with pytest.raises(TunedConfigError, match="corrupt or truncated"):
        tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=tmp_path / "out")
    assert path.read_bytes() == b'{"schema_version": 1, "entr'


def test_a_folder_that_cannot_be_written(fakes: type[FakeWorker], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TunedConfigError, match="must be writable"):
        tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=tmp_path / "file")
    assert tune(PROBLEM, LOCAL, trials=2, budget_s=60, out=tmp_path / "out").trials == 2


@pytest.mark.parametrize("limits", [{"trials": 0}, {"trials": 1, "until": 0.0}])
def test_limits_must_be_positive(limits: dict[str, Any]) -> None:
    with pytest.raises(ProblemError, match="must be greater than 0"):
        tune(PROBLEM, NAMED, budget_s=60, **limits)


@pytest.mark.parametrize("budget_s", [0.0, 0.01])
def test_a_budget_too_small_for_one_candidate_is_a_sentence_and_loses_nothing(
    budget_s: float, fakes: type[FakeWorker], tmp_path: Path
) -> None:
    where: dict[str, Any] = {"out": tmp_path / "out", "storage": str(tmp_path / "a.journal")}
    tune(replace(PROBLEM, batch=2), LOCAL, trials=1, budget_s=60, **where)
    before = (tmp_path / "out" / FILE).read_bytes()
    sentence = rf"a budget must suffice for one candidate of convfirst\(.*, but {budget_s:g} s for it were spent before"
    with pytest.raises(StudyError, match=sentence):
        tune(PROBLEM, LOCAL, trials=3, budget_s=budget_s, **where)
    assert (tmp_path / "out" / FILE).read_bytes() == before
    assert tune(PROBLEM, LOCAL, trials=3, budget_s=60, **where).trials == 3
    kept = tune(PROBLEM, LOCAL, trials=9, budget_s=0.01, **where)
    assert kept.trials == 3, "what an earlier run found is an answer"


class Trading:
    """Measurements of which the nth is slower and needs less energy than those before, but for the fifth."""

    def __call__(self, number: int) -> Result:
        time_us, energy_j = (90.0, 0.09) if number == 5 else (10.0 + number, 0.02 - 0.001 * number)
        measured = Measurement(time_us, time_us, time_us, 1 / time_us, 1e-4, energy_j=energy_j)
        return Result(Outcome.OK, measured=measured, error=1e-4)


def test_several_objectives_save_the_pareto_set_with_the_firsts_best(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "check_energy", lambda device: None)
    fakes.answer = staticmethod(Trading())
    only: dict[str, Any] = {"trials": 8, "budget_s": 60, "out": tmp_path / "out"}
    entry = tune(PROBLEM, LOCAL, objectives=parse_objectives("latency,energy"), **only)
    assert entry.measured is not None and entry.measured.median_us == 11.0 and entry.objective == "efficiency,energy"
    assert entry.pareto is not None
    assert [point.latency_us for point in entry.pareto] == [11.0, 12.0, 13.0, 14.0, 16.0, 17.0, 18.0]
    assert [point.energy_j for point in entry.pareto] == pytest.approx(
        [0.019, 0.018, 0.017, 0.016, 0.014, 0.013, 0.012]
    )
    assert entry.pareto[0].config == entry.config
    saved = load_file(tmp_path / "out" / FILE).entries[0]
    assert saved.pareto is not None and [one.config for one in saved.pareto] == [one.config for one in entry.pareto]

    fakes.answer = staticmethod(Trading())
    least = tune(PROBLEM, LOCAL, objectives=parse_objectives("energy"), **only)
    assert least.measured is not None and least.measured.energy_j == pytest.approx(0.012)
    assert (least.objective, least.pareto) == ("energy", None)
    assert [one["measured"]["median_us"] for one in entries(tmp_path / "out")] == [18.0], "asked for, though slower"

    journals = (tmp_path / "cache" / "studies").glob("*.journal")
    studies = [study for journal in journals for study in read_studies(str(journal))]
    names = sorted((study.metric_names for study in studies), key=str)
    assert names == [["efficiency", "energy"], ["energy"]], "trials of other objectives cannot be compared"


def test_of_two_searches_for_energy_the_one_that_needs_more_does_not_replace_the_other(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "check_energy", lambda device: None)
    only: dict[str, Any] = {"budget_s": 60, "out": tmp_path, "objectives": parse_objectives("energy")}
    fakes.answer = staticmethod(Trading())
    tune(PROBLEM, LOCAL, trials=4, storage=str(tmp_path / "1"), **only)
    fakes.answer = staticmethod(lambda number: Trading()(1) if number > 1 else Result(Outcome.WRONG_ANSWER, "no"))
    tune(PROBLEM, LOCAL, trials=2, storage=str(tmp_path / "2"), **only)
    assert entries(tmp_path)[0]["measured"] == {
        "median_us": 14.0,
        "p20_us": 14.0,
        "p80_us": 14.0,
        "efficiency": 0.07143,
        "error": 1e-4,
        "energy_j": 0.016,
    }


def test_energy_needs_a_gpu_and_nothing_is_begun_without(tmp_path: Path, fakes: type[FakeWorker]) -> None:
    with pytest.raises(
        DeviceError, match="energy is measured on a GPU of this machine only, but h200 is a datasheet's"
    ):
        tune(PROBLEM, NAMED, trials=2, budget_s=60, objectives=parse_objectives("efficiency,energy"))
    assert not (tmp_path / "cache" / "studies").exists()


def test_error_is_an_objective_of_a_modelled_search_too(fakes: type[FakeWorker], tmp_path: Path) -> None:
    """Every candidate is verified then, though the model has it slower than the best."""
    fakes.answer = staticmethod(lambda number: Result(Outcome.OK, error=1e-4 / number))
    entry = tune(PROBLEM, NAMED, trials=6, budget_s=60, out=tmp_path, objectives=parse_objectives("error,latency"))
    assert entry.measured is None and entry.error == pytest.approx(1e-4 / 6) and entry.pareto is not None
    assert entry.pareto[0].error == entry.error and entry.pareto[0].energy_j is None
    slower = sorted(entry.pareto, key=lambda point: point.error)
    assert [point.latency_us for point in slower] == sorted((one.latency_us for one in slower), reverse=True)


def test_missing_tools_are_named_and_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(tuner.env, "nvrtc_version", lambda: "13.0")
    with pytest.raises(CompileError, match="CXX must name a working"):
        tune(PROBLEM, NAMED, trials=2, budget_s=60)
    monkeypatch.setattr(tuner.env, "nvrtc_version", lambda: None)
    with pytest.raises(CompileError, match="install them"):
        tune(PROBLEM, NAMED, trials=2, budget_s=60)
    assert not (tmp_path / "cache" / "studies").exists()


@needs_nvrtc
@pytest.mark.timeout(180)
def test_a_search_without_a_gpu(tmp_path: Path) -> None:
    entry = tune(PROBLEM, NAMED, trials=3, budget_s=120, out=tmp_path / "out")
    assert entry.measured is None and entry.trials == 3
    assert entry.error is not None and 0 < entry.error < 1e-2
    assert list((tmp_path / "cache" / "kernels").glob("*.cubin"))
    resumed = tune(PROBLEM, NAMED, trials=3, budget_s=120, out=tmp_path / "again")
    assert resumed.config == entry.config and resumed.trials == 3


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_search_of_two_processes_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cold"))  # with kernels to compile, neither is done at once
    only = {
        "budget": Budget(120),
        "out": tmp_path / "out",
        "storage": str(tmp_path / "a.journal"),
        "sampler": "kgen",
        "seed": 0,
    }
    found = find(PROBLEM, NAMED, others=[NAMED], trials=16, progress=silent, **only)
    assert 16 <= found.entry.trials <= 17
    (study,) = read_studies(str(tmp_path / "a.journal"))
    asked = {trial.user_attrs[PROCESS] for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    assert len(asked) == 2 and study.get_trials(states=(TrialState.RUNNING,)) == []


@pytest.mark.gpu
def test_a_search_with_a_gpu(tmp_path: Path) -> None:
    problem, device = ConvFirst(4, 14, 14, 64), local_devices()[0]
    entry = tune(problem, device, trials=6, budget_s=120, out=tmp_path / "out")
    assert entry.measured is not None and entry.trials == 6
    assert 0 < entry.measured.p20_us <= entry.measured.median_us <= entry.measured.p80_us
    assert 0 < entry.measured.efficiency < 1
    assert entry.measured.shots is not None and entry.measured.shots >= 5 and entry.tied is not None
    again = tune(
        problem, device, trials=6, budget_s=120, out=tmp_path / "again", storage=str(tmp_path / "again.journal")
    )
    assert again.tied is not None
    assert again.config in (entry.config, *entry.tied) or entry.config in again.tied


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_a_search_for_a_pareto_set_with_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    problem, device = ConvFirst(32, 28, 28, 128), local_devices()[0]
    objectives = parse_objectives("latency,energy")
    entry = tune(problem, device, trials=30, budget_s=200, out=tmp_path / "out", objectives=objectives)
    assert entry.measured is not None and entry.pareto is not None
    assert entry.pareto[0].energy_j == entry.measured.energy_j is not None
    times, energies = [one.latency_us for one in entry.pareto], [one.energy_j or 0.0 for one in entry.pareto]
    assert times == sorted(times) and energies == sorted(energies, reverse=True)
    for time_us, energy_j in zip(times, energies, strict=True):
        assert 10 < energy_j / (time_us * 1e-6) < 1200, "watts"


@pytest.mark.gpu
@pytest.mark.skipif(len(local_devices()) < 2, reason="needs two GPUs in this machine")
@pytest.mark.timeout(300)
def test_a_search_with_two_gpus(tmp_path: Path) -> None:
    problem, (first, second) = ConvFirst(4, 14, 14, 64), local_devices()[:2]
    only = {
        "budget": Budget(200),
        "out": tmp_path / "out",
        "storage": str(tmp_path / "a.journal"),
        "sampler": "kgen",
        "seed": 0,
    }
    found = find(problem, first, others=[second], trials=60, progress=silent, **only)
    (study,) = read_studies(str(tmp_path / "a.journal"))
    ended = study.get_trials(states=(TrialState.COMPLETE,))
    assert len({trial.user_attrs[PROCESS] for trial in ended}) == 2
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
    assert found.entry.measured is not None and found.entry.measured.efficiency == study.best_value
