"""Retesting tuned configs: what is due, what is updated, what goes out of service, and what the file then says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tuned_samples import H200, entry, file_of

from kgen import retest, tuned
from kgen.blocks.convfirst import default_config
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cli import main
from kgen.compile import Cubin, Resources
from kgen.devices import local_devices
from kgen.errors import CompileError, DeviceError
from kgen.render import template_digest
from kgen.tuned import Measurement, TunedEntry, load_file, lookup, save
from kgen.tuned_file import ParetoPoint
from kgen.worker import Job, Outcome, Result

LOCAL = replace(H200, ordinal=0)
PROBLEMS = tuple(ConvFirst(1, 7, 7, channels) for channels in (16, 32, 48))


class FakePool:
    error: Exception | None = None

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, source: Any, arch: str) -> Future[Cubin]:
        future: Future[Cubin] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(Cubin(b"", arch, source.digest, {"kernel": Resources(64, 0, 0, 0, 0)}, "", 0.1))
        return future


class FakeWorker:
    """Measures 9 us, or a config's of ``times_us``, unless ``answer`` has something else to say of a problem."""

    times_us: ClassVar[dict[Any, float | None]]
    """None is of a config that is wrong."""
    answer: Callable[[ConvFirst], Result | None] = staticmethod(lambda problem: None)

    def __init__(self, device: Any) -> None:
        pass

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        return tuple(self._run(job) for job in jobs)

    def _run(self, job: Job) -> Result:
        problem: Any = job.problem
        time_us = self.times_us.get(job.config, 9.0)
        if time_us is None:
            return Result(Outcome.WRONG_ANSWER, "it is wrong")
        measured = Measurement(time_us, time_us, time_us, 0.5, 1e-4, 10, 1980)
        return self.answer(problem) or Result(Outcome.OK, measured=measured, error=1e-4, shots_us=(time_us,) * 10)


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Pool(FakePool):
        pass

    class Worker(FakeWorker):
        times_us: ClassVar[dict[Any, float | None]] = {}

    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(tuned, "packaged_dir", lambda: tmp_path / "packaged")
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.0")
    monkeypatch.setattr(tuned, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(retest, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(retest, "CompilePool", Pool)
    monkeypatch.setattr(retest, "Worker", Worker)
    yield


def sample(problem: ConvFirst, **fields: Any) -> TunedEntry:
    config = default_config(problem, LOCAL)
    return entry(problem, **{"config": config, "template_digest": template_digest(config.template)} | fields)


def saved(folder: Path, **fields: Any) -> Path:
    for problem in PROBLEMS:
        save(sample(problem, **fields), LOCAL, folder)
    return file_of(folder)


def run(folder: Path, *, every: bool = False) -> list[retest.Retested]:
    found = retest.due(folder, None, LOCAL, every=every).items()
    return [one for path, entries in found for one in retest.retest(path, entries, LOCAL)]


def latencies(path: Path) -> list[float | None]:
    return [one.measured and one.measured.median_us for one in load_file(path).entries]


def test_nothing_is_due_while_nothing_changed_unless_all_are_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    assert run(tmp_path) == [] and path.read_bytes() == before
    assert [one.changed for one in run(tmp_path, every=True)] == [(), (), ()]
    assert latencies(path) == [9.0, 9.0, 9.0]


def test_a_new_driver_makes_every_entry_due_and_each_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.1")
    ((same, entries),) = retest.due(tmp_path, "convfirst", LOCAL, every=False).items()
    assert same == path and [one.changed for one in entries] == [("driver",)] * 3
    tests = retest.retest(path, entries, LOCAL)
    next(tests)
    file = load_file(path)
    assert [file.environment_of(one).driver for one in file.entries] == ["13.1", "13.0", "13.0"]
    assert [one["environment"]["driver"] for one in json.loads(path.read_bytes())["entries"][1:]] == ["13.0"] * 2
    assert latencies(path) == [9.0, 12.25, 12.25]
    assert len(list(tests)) == 2 and latencies(path) == [9.0, 9.0, 9.0]
    assert "environment" not in json.loads(path.read_bytes())["entries"][0]
    (after,) = {one.trials for one in load_file(path).entries}
    assert after == 200 and run(tmp_path) == []  # what the search cost stays


def test_stale_and_modelled_entries_become_fresh_and_measured(tmp_path: Path) -> None:
    save(sample(PROBLEMS[0], template_digest="old"), LOCAL, tmp_path)
    save(sample(PROBLEMS[1], measured=None, error=None), H200, tmp_path)
    assert [one.changed for one in run(tmp_path)] == [("template_digest",), ("driver",)]
    for problem in PROBLEMS[:2]:
        found = lookup(problem, LOCAL, tmp_path)
        assert found is not None and found.exact and not found.stale and found.entry.measured is not None


@pytest.mark.parametrize("outcome", [Outcome.WRONG_ANSWER, Outcome.CRASHED, Outcome.TIMEOUT, Outcome.LAUNCH_FAILED])
def test_a_failing_entry_stays_in_the_file_and_out_of_service(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    bad = staticmethod(lambda problem: Result(outcome, "it is bad") if problem == PROBLEMS[1] else None)
    monkeypatch.setattr(retest.Worker, "answer", bad)
    tested = run(tmp_path, every=True)
    assert [one.after.failed for one in tested] == [None, f"{outcome.value}: it is bad", None]
    assert latencies(path) == [9.0, 12.25, 9.0]
    assert json.loads(path.read_bytes())["entries"][1]["failed"] == f"{outcome.value}: it is bad"
    found = lookup(PROBLEMS[1], LOCAL, tmp_path)
    assert found is not None and not found.exact
    monkeypatch.setattr(retest.Worker, "answer", staticmethod(lambda problem: None))
    (again,) = run(tmp_path)  # a failed one is always due, and comes back when it passes
    found = lookup(PROBLEMS[1], LOCAL, tmp_path)
    assert again.after.failed is None and found is not None and found.exact


def test_what_no_longer_compiles_or_breaks_a_rule_goes_out_of_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retest.CompilePool, "error", CompileError("no such thing"))
    config = replace(default_config(PROBLEMS[0], LOCAL), tile_w=1024)
    save(sample(PROBLEMS[0], config=config), LOCAL, tmp_path)
    save(sample(PROBLEMS[1]), LOCAL, tmp_path)
    infeasible, compiled = [one.after.failed for one in run(tmp_path, every=True)]
    assert infeasible is not None and infeasible.startswith("infeasible: ")
    assert compiled == "compile_failed: no such thing"


@pytest.mark.parametrize("result", [None, Result(Outcome.WRONG_ANSWER, "no")])
def test_what_a_tuner_saves_meanwhile_stays(
    result: Result | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    better = sample(PROBLEMS[0], trials=7)

    def tune_meanwhile(problem: ConvFirst) -> Result | None:
        save(better, LOCAL, tmp_path)
        return result

    monkeypatch.setattr(retest.Worker, "answer", staticmethod(tune_meanwhile))
    entries = retest.due(tmp_path, None, LOCAL, every=True)[path]
    list(retest.retest(path, entries[:1], LOCAL))
    assert load_file(path).entries[0] == better


def with_ties(folder: Path, times_us: Sequence[float | None]) -> tuple[list[Any], Path]:
    """Configs of an entry, the first of which the others tied with; they take ``times_us`` now."""
    config: Any = default_config(PROBLEMS[0], LOCAL)
    configs = [replace(config, stages=stages) for stages in range(2, 2 + len(times_us))]
    worker: Any = retest.Worker
    worker.times_us.update(zip(configs, times_us, strict=True))
    return configs, save(sample(PROBLEMS[0], config=configs[0], tied=tuple(configs[1:])), LOCAL, folder)


@pytest.mark.parametrize(
    ("times_us", "winner", "tied"),
    [
        ([9.0, 9.0, 9.0], 0, (1, 2)),
        ([9.0, 9.01, 9.5], 0, (1,)),
        ([9.5, 9.0, 9.0], 1, (2,)),
        ([None, 9.0, 9.0], 1, (2,)),
        ([9.0, None, None], 0, ()),
    ],
)
def test_what_tied_is_retested_too_and_the_winner_of_now_takes_the_place(
    times_us: list[float | None], winner: int, tied: tuple[int, ...], tmp_path: Path
) -> None:
    configs, path = with_ties(tmp_path, times_us)
    (tested,) = run(tmp_path, every=True)
    (after,) = load_file(path).entries
    assert after.config == tested.after.config == configs[winner] and after.failed is None
    assert after.tied == tuple(configs[one] for one in tied)
    assert after.measured is not None and after.measured.median_us == times_us[winner]
    assert (after.measured.shots, after.measured.clock_mhz) == (10, 1980)


def test_an_entry_fails_when_it_and_all_that_tied_fail(tmp_path: Path) -> None:
    configs, path = with_ties(tmp_path, [None, None])
    run(tmp_path, every=True)
    (after,) = load_file(path).entries
    assert after.failed == "wrong_answer: it is wrong" and after.tied == (configs[1],)
    worker: Any = retest.Worker
    worker.times_us[configs[1]] = 9.0
    (tested,) = run(tmp_path)
    assert tested.after.failed is None and tested.after.config == configs[1]


def test_the_command_says_that_a_config_that_tied_took_the_place(
    kgen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgen.devices.local_devices", lambda: (LOCAL,))
    with_ties(tmp_path, [None, 9.0])
    code, out, err = kgen("retest", "--tuned", str(tmp_path), "--all")
    assert code == 0 and "12.2 -> 9.0 us, by a config that tied" in err and "replaced" in out
    with_ties(tmp_path, [None, 9.0])
    assert [row["replaced"] for row in json.loads(kgen("retest", "--tuned", str(tmp_path), "--all", "--json")[1])] == [
        True
    ]


def test_tuning_again_puts_a_problem_back_in_service(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tuned.take_out_of_service(load_file(path).entries[0], path, "it is bad")
    save(sample(PROBLEMS[0]), LOCAL, tmp_path)
    assert [one.failed for one in load_file(path).entries] == [None] * 3


def test_no_search_begins_at_a_failed_entry(tmp_path: Path) -> None:
    path = save(sample(PROBLEMS[0]), LOCAL, tmp_path)
    assert tuned.near(PROBLEMS[0], LOCAL, tmp_path, 4) == [load_file(path).entries[0].config]
    tuned.take_out_of_service(load_file(path).entries[0], path, "it is bad")
    assert tuned.near(PROBLEMS[0], LOCAL, tmp_path, 4) == []


@pytest.fixture
def kgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kgen", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_without_a_gpu_it_is_a_sentence(kgen: Any, tmp_path: Path) -> None:
    code, out, err = kgen("retest", "--tuned", str(tmp_path), "--device", "h200")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "on a GPU of this machine only, but h200 is a datasheet's; run it where that GPU is" in err
    with pytest.raises(DeviceError):
        retest.due(tmp_path, None, H200, every=False)


def test_the_command_prints_before_and_after(kgen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.devices.local_devices", lambda: (LOCAL,))
    code, out, err = kgen("retest", "--tuned", str(tmp_path))
    assert code == 2 and "must have */nvidia-h200.json, but" in err
    assert kgen("retest", "resnet", "--tuned", str(tmp_path))[0] == 2
    saved(tmp_path)
    assert "--all retests them anyhow" in kgen("retest", "--tuned", str(tmp_path))[1]
    bad = staticmethod(lambda problem: Result(Outcome.CRASHED, "it is bad") if problem == PROBLEMS[1] else None)
    monkeypatch.setattr(retest.Worker, "answer", bad)
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.1")
    code, out, err = kgen("retest", "convfirst", "--tuned", str(tmp_path))
    assert code == 1 and "crashed: it is bad" in err and "12.2 -> 9.0 us" in err
    assert [line.split()[-2] for line in out.splitlines() if "driver" in line] == ["updated", "failed", "updated"]
    code, out, _ = kgen("retest", "--tuned", str(tmp_path), "--all", "--json")
    rows = json.loads(out)
    assert code == 1 and [row["after_us"] for row in rows] == [9.0, None, 9.0]
    assert [row["before_us"] for row in rows] == [9.0, 12.25, 9.0] and rows[1]["failed"] == "crashed: it is bad"
    shown = [line for line in kgen("show", "--folder", str(tmp_path))[1].splitlines() if "measured" in line]
    assert ["failed" in line for line in shown] == [False, True, False]


@pytest.mark.gpu
@pytest.mark.timeout(180)
def test_a_default_config_is_retested_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    device, problem = local_devices()[0], ConvFirst(4, 14, 14, 64)
    config = default_config(problem, device)
    path = save(entry(problem, config=config, template_digest="old"), device, tmp_path)
    (due,) = retest.due(tmp_path, "convfirst", device, every=False)[path]
    (tested,) = retest.retest(path, (due,), device)
    assert due.changed == ("template_digest",) and tested.after.failed is None and tested.seconds > 0
    (after,) = load_file(path).entries
    assert after.measured is not None and 0 < after.measured.median_us != 12.25
    assert after.template_digest == template_digest(config.template)


def test_energy_is_measured_again_where_it_was_and_a_pareto_set_of_before_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Worker(FakeWorker):
        times_us: ClassVar[dict[Any, float | None]] = {}

        def _run(self, job: Job) -> Result:
            asked.append(job.energy)
            measured = Measurement(9.0, 8.9, 9.1, 0.5, 1e-4, energy_j=0.01 if job.energy else None)
            return Result(Outcome.OK, measured=measured, error=1e-4, shots_us=(9.0,) * 10)

    monkeypatch.setattr(retest, "Worker", Worker)
    monkeypatch.setattr(retest, "check_energy", lambda device: None)
    path = saved(tmp_path)
    measured = Measurement(12.0, 12.0, 12.0, 0.3, 1e-4, energy_j=0.02)
    pareto = (ParetoPoint(sample(PROBLEMS[1]).config, 12.0, 1e-4, 0.02),)
    save(sample(PROBLEMS[1], measured=measured, objective="efficiency,energy", pareto=pareto), LOCAL, tmp_path)
    run(tmp_path, every=True)
    with_energy = {one.problem: one for one in load_file(path).entries}[PROBLEMS[1]]
    assert sorted(asked) == [False, False, True]
    assert with_energy.measured is not None and with_energy.measured.energy_j == 0.01
    assert with_energy.pareto is None and with_energy.objective == "efficiency,energy"


def test_an_energy_that_cannot_be_measured_again_is_a_sentence_and_fails_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: Any) -> None:
        raise DeviceError("energy needs nvidia-ml-py")

    monkeypatch.setattr(retest, "check_energy", refuse)
    path = saved(tmp_path, measured=Measurement(12.0, 12.0, 12.0, 0.3, 1e-4, energy_j=0.02))
    before = path.read_bytes()
    with pytest.raises(DeviceError, match="nvidia-ml-py"):
        run(tmp_path, every=True)
    assert path.read_bytes() == before
