"""Where a study lives: a journal file or any database that Optuna can open, so that a killed search goes on.

A journal is one file of JSON lines, appended to and synced line by line: SIGKILL leaves a study that still opens.
It has no heartbeats, so a dead tuner's trials cannot be told from a living one's: one ``kgen tune`` has it at a time,
and the next one frees what was left running. The same holds for SQLite. Processes of one command do share it, since the
first of them sees the others die. A database server is shared by tuners on any number of machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from kgen.search.database import cannot_open, connect, host, is_server, open_database, shown, tables_of
from kgen.search.objectives import BY_EFFICIENCY, Objectives, set_objectives
from kgen.search.shared import STORAGE_ERRORS, Heartbeat, SharedStudy
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from kgen.env import cache_dir, private_folder
from kgen.errors import StudyError


@contextmanager
def open_study(storage: str | None, name: str, objectives: Objectives = BY_EFFICIENCY) -> Iterator[SharedStudy]:
    """The study called ``name``, created with these objectives when it is new.

    ``storage`` is a path of a journal file or a database URL; None is a journal of this study alone in the user's
    cache folder. A study on a database server is shared with its other tuners; any other one is held against them while
    the block runs. Trials that were left running, by a tuner that died or when the block ends, are marked failed and
    their configs enqueued again.

    Raises:
        StudyError: the storage cannot be opened, holds something else, goes away while the block runs, or cannot be
            shared and is being tuned already.
    """
    folder = _studies_folder()
    where = place_of(storage, name)
    with ExitStack() as stack:
        if not is_server(where):
            stack.enter_context(_held(folder, where, name))
        study = stack.enter_context(join_study(where, name, objectives))
        if not is_server(where):
            study.free_all()
        yield study


@contextmanager
def join_study(where: str, name: str, objectives: Objectives = BY_EFFICIENCY) -> Iterator[SharedStudy]:
    """A study that other tuners may have too: on a server, or held by a process of this machine that awaits this one.

    Raises:
        StudyError: as :func:`open_study`.
    """
    study = _create(_open(where), where, name, objectives)
    try:
        with Heartbeat(study, partial(connect, where)) if is_server(where) else nullcontext():
            try:
                yield study
            finally:
                study.give_back()
    except STORAGE_ERRORS as error:
        fault = f"stay up, but {host(where)} stopped answering"
        if not is_server(where):
            reason = getattr(error.__cause__, "orig", error)
            fault = f"be writable, but writing {shown(where)} failed ({reason}); free some space"
        raise StudyError(
            f"a study's database must {fault}; every candidate that ended before is kept, and the same command goes on "
            "from there"
        ) from error


def place_of(storage: str | None, name: str) -> str:
    """``storage``, by default the journal of the study in the user's cache folder."""
    return storage if storage is not None else str(_studies_folder() / f"{name}.journal")


@contextmanager
def _held(folder: Path, where: str, name: str) -> Iterator[None]:
    """A lock against other tuners of the study; the kernel frees it when its holder dies."""
    key = hashlib.sha256(f"{shown(where)}\n{name}".encode()).hexdigest()[:16]
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(
            f"a study is tuned by one process at a time, but {name} in {shown(where)} is in use; wait for the other "
            "kgen tune to end, or pass another --storage: a PostgreSQL one can be shared"
        ) from None
    except OSError as error:
        raise StudyError(
            f"the folder of studies must be writable, but {folder} is not ({error}); set KGEN_CACHE_DIR"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_studies(storage: str, name: str | None = None) -> list[optuna.Study]:
    """The studies in ``storage``, or the one called ``name``; nothing is created there, and nothing changed.

    Raises:
        StudyError: the storage is missing, cannot be opened or holds something else, or has no such study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check_present(storage)
    try:
        opened = connect(storage) if "://" in storage else _journal(Path(storage).expanduser())
        names = optuna.get_all_study_names(opened)
        wanted = names if name is None else [one for one in names if one == name]
        found = [optuna.load_study(study_name=one, storage=opened) for one in wanted]
    except Exception as error:  # Optuna's replay of a damaged journal may raise anything
        raise cannot_open(storage, error) from error
    if not found:
        wish = "at least one study" if name is None else f"a study called {name!r}"
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
        raise StudyError(f"storage must hold {wish}, but {shown(storage)} holds {held}; name another")
    return found


def _check_present(where: str) -> None:
    """Refuse what opening would create, or fill with tables."""
    if "://" not in where:
        path = Path(where).expanduser()
        if not path.is_file():
            raise StudyError(f"a study must be a journal file or a database URL, but {path} is no file; check the path")
        try:
            _check_journal(path)
        except OSError as error:
            raise cannot_open(where, error) from error
        return
    try:
        url = sqlalchemy.make_url(where)
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and not Path(file).is_file():
            raise StudyError(f"a study must be a journal file or a database URL, but {file} is no file; check the path")
        if "studies" not in tables_of(where):
            raise StudyError(f"storage must hold studies, but {shown(where)} has none; name another")
    except (ImportError, OSError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise cannot_open(where, error) from error


def _studies_folder() -> Path:
    try:
        folder = cache_dir() / "studies"
        private_folder(folder)
    except OSError as error:
        raise StudyError(
            f"studies need a writable cache folder, but it cannot be created ({error}); set KGEN_CACHE_DIR"
        ) from error
    return folder


def _create(storage: BaseStorage, where: str, name: str, objectives: Objectives) -> SharedStudy:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        directions = [one.direction for one in objectives]
        optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        study = SharedStudy(name, storage)
        set_objectives(study, objectives)
        return study
    except (OSError, ValueError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise cannot_open(where, error) from error


def _open(where: str) -> BaseStorage:
    return open_database(where) if "://" in where else _open_journal(Path(where).expanduser())


def _open_journal(path: Path) -> JournalStorage:
    try:
        private_folder(path.parent)
        lock = FileLock(path.with_name(path.name + ".lock"))
        if path.exists():
            _check_journal(path)
            with lock:
                _drop_torn_line(path)
        return _journal(path)
    except StudyError:
        raise
    except Exception as error:  # Optuna's replay of a damaged journal may raise anything
        raise cannot_open(str(path), error) from error


def _journal(path: Path) -> JournalStorage:
    lock = FileLock(path.with_name(path.name + ".lock"))
    return JournalStorage(_Journal(str(path), lock_obj=_AppendLock(str(path), lock)))


def _check_journal(path: Path) -> None:
    """Refuse a file whose first line is not a journal's, before anything could be appended to it."""
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    if not first:
        return
    try:
        record = json.loads(first)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "op_code" not in record:
        raise StudyError(
            f"storage must be an Optuna journal file or a database URL, but {path} holds something else; "
            "pass another --storage (the file was not touched)"
        )


def _drop_torn_line(path: Path) -> None:
    """Cut an unfinished last line, left by a full disk or a power cut: the next append would run on from it."""
    with path.open("r+b") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


class _Journal(JournalFileBackend):
    """A journal file whose disk may be full."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            with suppress(OSError):
                _drop_torn_line(Path(self._file_path))
            raise StudyError(
                f"a study's journal must be writable, but writing {self._file_path} failed ({error.strerror}); free "
                "some space: every candidate that ended before is kept, and the same command goes on from there"
            ) from error


class _AppendLock(JournalFileOpenLock):
    """An advisory lock around each append; the kernel frees it when its holder is killed, unlike a lock file."""

    def __init__(self, path: str, lock: FileLock) -> None:
        super().__init__(path)
        self._lock = lock

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()
