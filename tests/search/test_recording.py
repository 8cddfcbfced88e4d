"""Recording a space: what is measured and what is shared, what a killed one keeps, and which files are refused."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kgen.search import recording
from kgen.search.recorded import read_recorded
from kgen.search.recording import record, sample_of
from kgen.search.space import legal_space

from kgen import tuned
from kgen.blocks.convfirst import choices
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.cli import main
from kgen.cli.record import file_name
from kgen.compile import Cubin, Resources
from kgen.devices import Device, find_device
from kgen.errors import CompileError, DeviceError, ProblemError, RecordError
from kgen.machine import efficiency
from kgen.tuned import Measurement
from kgen.worker import Job, Outcome, Result

NAMED = find_device("h200")
LOCAL = replace(NAMED, ordinal=0)
PROBLEM = ConvFirst(1, 7, 7, 64)


def two_sides(problem: ConvFirst, device: Device) -> dict[str, Any]:
    fused = choices(problem, device)
    few = {name: options[:2] for name, options in fused["wgmma_fused"].items()}
    return {"wgmma_fused": few, "cluster": {name: options[:1] for name, options in fused["cluster"].items()}}


class FakePool:
    submitted: ClassVar[Counter[str]] = Counter()
    failing: str = ""

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, source: Any, arch: str) -> Future[Cubin]:
        self.submitted[source.digest] += 1
        future: Future[Cubin] = Future()
        if source.digest == self.failing:
            future.set_exception(CompileError("a source must compile"))
        else:
            spills = 1000 if len(self.submitted) % 3 == 0 else 0
            resources = {"kernel": Resources(64, spills, 0, 0, 0)}
            future.set_result(Cubin(b"", arch, source.digest, resources, "", 0.5))
        return future


class FakeWorker:
    jobs: ClassVar[list[Job]]
    answer: Callable[[int], Result | None] = staticmethod(lambda number: None)

    def __init__(self, device: Device) -> None:
        pass

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, job: Job, timeout_s: float, *meanwhile: Callable[[], object]) -> Result:
        self.jobs.append(job)
        other = type(self).answer(len(self.jobs))
        if other is not None:
            return other
        time_us = 10.0 + len(self.jobs) % 7
        share = efficiency(job.problem.flops, time_us, job.device)
        measured = Measurement(time_us, time_us - 1, time_us + 1, share, 1e-4)
        return Result(Outcome.OK, measured=measured, error=1e-4, seconds=0.05)


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    class Pool(FakePool):
        submitted: ClassVar[Counter[str]] = Counter()

    class Worker(FakeWorker):
        jobs: ClassVar[list[Job]] = []

    monkeypatch.setattr(recording, "CompilePool", Pool)
    monkeypatch.setattr(recording, "Worker", Worker)
    monkeypatch.setattr(tuned, "_driver_version", lambda: "13.0")
    monkeypatch.setattr("kgen.blocks.convfirst.choices", two_sides)
    return Worker


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_every_config_is_recorded_with_what_became_of_it(fakes: type[FakeWorker], tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl.gz"
    fakes.answer = staticmethod(lambda number: Result(Outcome.WRONG_ANSWER, "it is wrong") if number == 2 else None)
    count = record(PROBLEM, LOCAL, path)
    recorded = read_recorded(path)
    assert recorded.header.problem == PROBLEM and recorded.header.device == LOCAL
    assert recorded.header.environment.driver == "13.0" and recorded.header.environment.template_digest
    assert count == recorded.header.size == len(recorded.evaluations) > 30
    assert set(recorded.evaluations) == set(legal_space(PROBLEM, LOCAL, two_sides(PROBLEM, LOCAL), [], 0).left)
    by_outcome = Counter(one.outcome for one in recorded.evaluations.values())
    assert by_outcome[Outcome.WRONG_ANSWER] >= 1 and by_outcome[Outcome.OK] >= count - 5
    passed = next(one for one in recorded.evaluations.values() if one.measured)
    assert passed.compile_s == 0.5 and passed.run_s == 0.05 and passed.registers == {"kernel": 64}
    assert passed.measured is not None and passed.measured.p20_us == passed.measured.median_us - 1
    assert any(one.spill_bytes == 1000 and one.measured for one in recorded.evaluations.values())
    assert recorded.best.efficiency == max(one.efficiency or 0 for one in recorded.evaluations.values())


def test_slow_ones_are_given_up_early(fakes: type[FakeWorker], tmp_path: Path) -> None:
    record(PROBLEM, LOCAL, tmp_path / "a", sample=5)
    limits = [job.give_up_us for job in fakes.jobs]
    assert limits[0] == float("inf") and all(limit == pytest.approx(22.0) for limit in limits[1:])


def test_programs_that_are_the_same_are_measured_once(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "program_key", lambda program: program.config.boundary)
    count = record(PROBLEM, LOCAL, tmp_path / "a")
    assert len(fakes.jobs) == 2 < count == len(read_recorded(tmp_path / "a").evaluations)


def test_a_killed_recording_loses_nothing_finished(fakes: type[FakeWorker], tmp_path: Path) -> None:
    def answer(number: int) -> Result | None:
        if number == 4:
            raise KeyboardInterrupt
        return None

    path = tmp_path / "a"
    fakes.answer = staticmethod(answer)
    with pytest.raises(KeyboardInterrupt):
        record(PROBLEM, LOCAL, path, sample=8)
    whole = path.read_bytes()
    assert len(read_recorded(path).evaluations) == 3
    path.write_bytes(whole + gzip.compress(b'{"config": {}}\n')[:-9])  # killed while it wrote the next
    with pytest.raises(RecordError, match="is truncated after 3 records; run its kgen record command again"):
        read_recorded(path)
    fakes.answer = staticmethod(lambda number: None)
    assert record(PROBLEM, LOCAL, path, sample=8) == 8
    assert len(fakes.jobs) == 4 + 5
    configs = [line["config"] for line in lines_of(path)[1:]]
    assert len(configs) == 8 and all(configs.count(one) == 1 for one in configs)
    packed = path.read_bytes()
    assert record(PROBLEM, LOCAL, path, sample=8) == 8 and len(fakes.jobs) == 9 and path.read_bytes() == packed


def test_a_file_of_another_space_is_not_touched(fakes: type[FakeWorker], tmp_path: Path) -> None:
    path = tmp_path / "a"
    record(PROBLEM, LOCAL, path, sample=4)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"differs in problem.*; pass another --out"):
        record(replace(PROBLEM, batch=2), LOCAL, path, sample=4)
    with pytest.raises(RecordError, match="differs in seed"):
        record(PROBLEM, LOCAL, path, sample=4, seed=1)
    assert path.read_bytes() == before


def test_samples_have_equal_shares_and_agree_between_problems() -> None:
    space = legal_space(PROBLEM, NAMED, two_sides(PROBLEM, NAMED), [], 0)
    every = sample_of(space, len(space), 3)
    assert sorted(map(str, every)) == sorted(map(str, space.left)) and every != space.left
    small = min(space.extents.values(), key=lambda extent: extent.count).sample
    chosen = sample_of(space, 12, 3)
    assert len(chosen) == 12 and Counter(one.boundary for one in chosen)["cluster"] == min(6, small)
    assert chosen != sample_of(space, 12, 4)
    other = sample_of(legal_space(replace(PROBLEM, batch=2), NAMED, two_sides(PROBLEM, NAMED), [], 0), 12, 3)
    assert len(set(other) & set(chosen)) >= 10


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="a space is recorded on a local GPU, but h200 names a datasheet"):
        record(PROBLEM, NAMED, tmp_path / "a")
    with pytest.raises(ProblemError, match="sample must be at least 1"):
        record(PROBLEM, LOCAL, tmp_path / "a", sample=0)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="must be a writable file"):
        record(PROBLEM, LOCAL, tmp_path / "file" / "a", sample=2)


def header_with(path: Path, **changes: Any) -> bytes:
    first, *rest = lines_of(path)
    return gzip.compress("".join(json.dumps(one) + "\n" for one in ({**first, **changes}, *rest)).encode())


def test_files_that_are_no_recorded_space_are_refused(fakes: type[FakeWorker], tmp_path: Path) -> None:
    path = tmp_path / "a"
    record(PROBLEM, LOCAL, path, sample=3)
    bad = {
        b"{}": "must be a gzip file that kgen record wrote",
        b"": "must begin with what it is of",
        gzip.compress(b"[]\n"): "must begin with what it is of",
        header_with(path, schema_version=99): "must have schema_version 1, but .* has 99; use the kgen that wrote it",
        header_with(path, family="no such"): "must begin with what it is of",
        header_with(path) + gzip.compress(b"{}\n"): "must hold a config and its outcome a line",
        path.read_bytes()[:-20]: "is truncated",
    }
    for content, message in bad.items():
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(RecordError, match=message):
            read_recorded(tmp_path / "b")
    with pytest.raises(RecordError, match="must be a readable file"):
        read_recorded(tmp_path / "missing")


def test_every_truncation_of_a_finished_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record(PROBLEM, LOCAL, path, sample=3)
    whole = path.read_bytes()
    for length in range(0, len(whole), 50):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=r"is truncated after|must begin with what it is of"):
            read_recorded(path)


def test_a_space_in_which_nothing_passed_is_refused(fakes: type[FakeWorker], tmp_path: Path) -> None:
    fakes.answer = staticmethod(lambda number: Result(Outcome.CRASHED, "it crashed"))
    record(PROBLEM, LOCAL, tmp_path / "a", sample=3)
    with pytest.raises(RecordError, match=r"none of the 3 in .* did; record more"):
        read_recorded(tmp_path / "a")


def test_file_names_tell_spaces_apart() -> None:
    names = {file_name(one, NAMED) for one in (PROBLEM, replace(PROBLEM, batch=2), replace(PROBLEM, expansion=6))}
    assert len(names) == 3
    assert file_name(PROBLEM, NAMED) == (
        "convfirst-batch-1-7x7-64-channels-expansion-4-silu-float16-nvidia-h200.jsonl.gz"
    )


def test_the_command_records_a_file_for_each_batch(
    fakes: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kgen.cli.record.find_device", lambda spec: LOCAL)
    problem = ("--channels", "64", "--size", "7", "--batches", "1,2", "--sample", "6", "--out", str(tmp_path / "out"))

    def command() -> tuple[int | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["kgen", "record", "convfirst", *problem, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err  # type: ignore[return-value]

    def answer(number: int) -> Result | None:
        if number == 8:
            raise KeyboardInterrupt
        return None

    fakes.answer = staticmethod(answer)
    code, out, err = command()
    assert code == 130 and not out and "interrupted" in err and len(list((tmp_path / "out").iterdir())) == 2
    fakes.answer = staticmethod(lambda number: None)
    code, out, _ = command()
    files = json.loads(out)
    assert code == 0 and [file["configs"] for file in files] == [6, 6] and len(fakes.jobs) == 13
    problems = [read_recorded(Path(file["path"])).header.problem for file in files]
    assert problems == [PROBLEM, replace(PROBLEM, batch=2)]
