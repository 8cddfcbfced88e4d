"""Study storage: created, resumed, locked, and refused with a sentence where it is something else."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from kgen.search.objectives import objectives_of, parse_objectives
from kgen.search.retry import RETRY_OF, SEEDED
from kgen.search.storage import open_study, read_studies
from optuna.trial import TrialState

from kgen.errors import StudyError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "cache"
    monkeypatch.setenv("KGEN_CACHE_DIR", str(folder))
    yield folder


def storages(tmp_path: Path) -> dict[str, str | None]:
    return {"default": None, "journal": str(tmp_path / "a.journal"), "sqlite": f"sqlite:///{tmp_path / 'a.db'}"}


@pytest.mark.parametrize("kind", ["default", "journal", "sqlite"])
def test_a_study_is_there_when_it_is_opened_again(kind: str, tmp_path: Path) -> None:
    storage = storages(tmp_path)[kind]
    with open_study(storage, "one") as study:
        trial = study.ask()
        trial.suggest_int("x", 0, 9)
        study.tell(trial, 0.5)
    with open_study(storage, "one") as study:
        assert study.best_value == 0.5
    with open_study(storage, "two") as study:
        assert study.trials == []


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_keeps_its_objectives(kind: str, tmp_path: Path) -> None:
    storage, objectives = storages(tmp_path)[kind], parse_objectives("latency,energy")
    for best in (0, 1):
        with open_study(storage, "one", objectives) as study:
            assert objectives_of(study) == objectives and len(study.best_trials) == best
            trial = study.ask()
            trial.suggest_int("x", 0, 9)
            study.tell(trial, [0.5 - best, 0.01 + best])
    (found,) = read_studies(str(storage))
    assert objectives_of(found) == objectives


def test_the_default_is_a_journal_in_the_cache(cache: Path) -> None:
    with open_study(None, "one"):
        assert (cache / "studies" / "one.journal").stat().st_size > 0
    assert (cache.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_running_trials_are_enqueued_again(kind: str, tmp_path: Path) -> None:
    with open_study(storages(tmp_path)[kind], "one") as study:
        study.enqueue_trial({"x": 3}, user_attrs={SEEDED: True})
        started = study.ask()  # enqueued, and killed before anything was suggested
        suggested = study.ask()
        suggested.suggest_int("x", 0, 9)
        suggested.set_user_attr("config", {"x": suggested.params["x"]})
        unsure = study.ask()  # sampled, and killed before its config was complete
    with open_study(storages(tmp_path)[kind], "one") as study:
        failed = study.get_trials(states=(TrialState.FAIL,))
        waiting = study.get_trials(states=(TrialState.WAITING,))
        assert [trial.number for trial in failed] == [started.number, suggested.number, unsure.number]
        assert [trial.user_attrs[RETRY_OF] for trial in waiting] == [started.number, suggested.number]
        assert waiting[0].user_attrs[SEEDED] is True
        again = [study.ask() for _ in waiting]
        assert [trial.suggest_int("x", 0, 9) for trial in again] == [3, suggested.params["x"]]


def test_a_study_has_one_tuner_at_a_time(tmp_path: Path) -> None:
    storage = str(tmp_path / "a.journal")
    with (
        open_study(storage, "one"),
        open_study(storage, "two"),
        pytest.raises(StudyError, match=r"one process at a time, but one in .*a\.journal is in use; wait"),
        open_study(storage, "one"),
    ):
        pass
    with open_study(storage, "one"):
        pass


@pytest.mark.parametrize(
    "content", [b"hello\n", b'{"schema_version": 1, "entries": []}', b"\x7fELF\x00\xff" * 100, b"[1]\n"]
)
def test_a_file_that_is_no_study_is_refused_and_not_touched(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    with pytest.raises(StudyError, match=r"storage must be .* but .*notes\.txt holds something else; pass another"):
        open_study(str(path), "one").__enter__()
    assert path.read_bytes() == content
    assert path.stat().st_mtime == 1e9
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "notes.txt"]


def test_a_damaged_journal_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with open_study(str(path), "one") as study:
        study.ask()
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], b"garbage\n", *lines[1:]])
    path.write_bytes(damaged)
    with pytest.raises(StudyError, match=r"cannot be opened as a study"):
        open_study(str(path), "one").__enter__()
    assert path.read_bytes() == damaged


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with open_study(str(path), "one") as study:
        study.tell(study.ask(), 0.25)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker_')
    for _ in range(2):
        with open_study(str(path), "one") as study:
            assert study.best_value == 0.25
            study.tell(study.ask(), 0.125)
    with open_study(str(path), "one") as study:
        assert [trial.value for trial in study.trials] == [0.25, 0.125, 0.125]


def test_a_full_disk_ends_a_study_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.journal"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(StudyError, match=r"writing .*a\.journal failed \(No space left on device\); .* goes on"),
        open_study(str(path), "one") as study,
    ):
        study.tell(study.ask(), 0.25)
        with monkeypatch.context() as patch:
            patch.setattr("optuna.storages.journal._file.os.fsync", full)
            study.ask()
    with open_study(str(path), "one") as study:
        assert study.best_value == 0.25


@pytest.mark.parametrize("name", ["folder", "missing/journal.log/x"])
def test_a_path_that_cannot_be_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "journal.log").write_text("")
    with pytest.raises(StudyError, match="cannot be opened as a study"):
        open_study(str(tmp_path / name), "one").__enter__()


def test_a_database_of_something_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute("create table orders (id integer)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StudyError, match="holds orders; pass another"):
        open_study(f"sqlite:///{path}", "one").__enter__()
    assert path.read_bytes() == before
    path.write_bytes(b"not a database at all, but long enough to look like one" * 40)
    with pytest.raises(StudyError, match="cannot be opened"):
        open_study(f"sqlite:///{path}", "one").__enter__()


@pytest.mark.parametrize("url", ["nonsense://host/db", "postgresql+nodriver://user:secret@host/db", "://"])
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StudyError, match="pass another --storage") as caught:
        open_study(url, "one").__enter__()
    assert "secret" not in str(caught.value)


def test_an_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(StudyError, match="set KGEN_CACHE_DIR"):
        open_study(None, "one").__enter__()


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_studies_are_read_and_not_touched(kind: str, tmp_path: Path) -> None:
    storage = str(storages(tmp_path)[kind])
    for name, value in (("one", 0.25), ("two", 0.5)):
        with open_study(storage, name) as study:
            study.tell(study.ask(), value)
    file = tmp_path / ("a.journal" if kind == "journal" else "a.db")
    before, listing = file.read_bytes(), sorted(tmp_path.iterdir())
    assert {study.study_name: study.best_value for study in read_studies(storage)} == {"one": 0.25, "two": 0.5}
    assert [study.study_name for study in read_studies(storage, "two")] == ["two"]
    with pytest.raises(StudyError, match=r"must hold a study called 'three', but .* holds one, two; name another"):
        read_studies(storage, "three")
    assert file.read_bytes() == before and sorted(tmp_path.iterdir()) == listing


def test_a_torn_last_line_is_read_past(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with open_study(str(path), "one") as study:
        study.tell(study.ask(), 0.25)
    path.write_bytes(path.read_bytes() + b'{"op_code":4,"worker_')
    (study,) = read_studies(str(path))
    assert study.best_value == 0.25 and path.read_bytes().endswith(b"worker_")


def test_nothing_is_created_by_reading(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.journal").write_text("")
    listing = sorted(tmp_path.iterdir())
    for where, sentence in {
        "missing.journal": "is no file; check the path",
        "sqlite:///missing.db": "is no file; check the path",
        "sqlite:///empty.db": "is no file; check the path|has none; name another",
        "empty.journal": "must hold at least one study, but .* holds none",
        "nonsense://user:secret@host/db": "cannot be opened as a study",
    }.items():
        place = where.replace("///", f"///{tmp_path}/") if "://" in where else str(tmp_path / where)
        with pytest.raises(StudyError, match=sentence) as caught:
            read_studies(place)
        assert "secret" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == listing
