"""Where a study lives: a journal file or any database that Optuna can open, so that a killed search goes on.

A journal is one file of JSON lines, appended to and synced line by line: SIGKILL leaves a study that still opens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from kgen.env import cache_dir, private_folder
from kgen.errors import StudyError

RETRY_OF = "retry_of"
SEEDED = "seeded"


@contextmanager
def open_study(storage: str | None, name: str) -> Iterator[optuna.Study]:
    """The study called ``name``, created when it is new, held against other tuners while the block runs.

    ``storage`` is a path of a journal file or a database URL; None is a journal of this study alone in the user's
    cache folder. Trials left running, by a killed tuner or when the block ends, are marked failed and their configs
    enqueued again.

    Raises:
        StudyError: the storage cannot be opened, holds something else, or the study is being tuned already.
    """
    folder = _studies_folder()
    where = storage if storage is not None else str(folder / f"{name}.journal")
    key = hashlib.sha256(f"{_shown(where)}\n{name}".encode()).hexdigest()[:16]
    tuner_lock = FileLock(folder / f"{key}.lock")
    try:
        tuner_lock.acquire(timeout=0)
    except Timeout:
        raise StudyError(
            f"a study is tuned by one process at a time, but {name} in {_shown(where)} is in use; "
            "wait for the other kgen tune to end or pass another --storage"
        ) from None
    except OSError as error:
        raise StudyError(
            f"the folder of studies must be writable, but {folder} is not ({error}); set KGEN_CACHE_DIR"
        ) from error
    try:
        study = _create(_open(where), where, name)
        _requeue_running(study)
        try:
            yield study
        finally:
            _requeue_running(study)
    finally:
        tuner_lock.release()


def read_studies(storage: str, name: str | None = None) -> list[optuna.Study]:
    """The studies in ``storage``, or the one called ``name``; nothing is created there, and nothing changed.

    Raises:
        StudyError: the storage is missing, cannot be opened or holds something else, or has no such study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check_present(storage)
    try:
        opened = RDBStorage(storage) if "://" in storage else _journal(Path(storage).expanduser())
        names = optuna.get_all_study_names(opened)
        wanted = names if name is None else [one for one in names if one == name]
        found = [optuna.load_study(study_name=one, storage=opened) for one in wanted]
    except Exception as error:  # Optuna's replay of a damaged journal may raise anything
        raise _cannot_open(storage, error) from error
    if not found:
        wish = "at least one study" if name is None else f"a study called {name!r}"
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
        raise StudyError(f"storage must hold {wish}, but {_shown(storage)} holds {held}; name another")
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
            raise _cannot_open(where, error) from error
        return
    try:
        url = sqlalchemy.make_url(where)
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and not Path(file).is_file():
            raise StudyError(f"a study must be a journal file or a database URL, but {file} is no file; check the path")
        if "studies" not in _tables(where):
            raise StudyError(f"storage must hold studies, but {_shown(where)} has none; name another")
    except (ImportError, OSError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _cannot_open(where, error) from error


def _studies_folder() -> Path:
    try:
        folder = cache_dir() / "studies"
        private_folder(folder)
    except OSError as error:
        raise StudyError(
            f"studies need a writable cache folder, but it cannot be created ({error}); set KGEN_CACHE_DIR"
        ) from error
    return folder


def _create(storage: BaseStorage, where: str, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (OSError, ValueError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _cannot_open(where, error) from error


def _requeue_running(study: optuna.Study) -> None:
    """Enqueue running trials again, then fail them: in this order a kill in between loses nothing."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        fixed = trial.system_attrs.get("fixed_params")  # of an enqueued trial, complete from the start
        params = fixed if fixed is not None else trial.params if "config" in trial.user_attrs else None
        if params:
            kept = {SEEDED: True} if SEEDED in trial.user_attrs else {}
            study.enqueue_trial(params, user_attrs={**kept, RETRY_OF: trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def _open(where: str) -> BaseStorage:
    return _open_database(where) if "://" in where else _open_journal(Path(where).expanduser())


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
        raise _cannot_open(str(path), error) from error


def _journal(path: Path) -> JournalStorage:
    lock = FileLock(path.with_name(path.name + ".lock"))
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_AppendLock(str(path), lock)))


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


def _open_database(url: str) -> RDBStorage:
    try:
        tables = _tables(url)
        if tables and "studies" not in tables:
            raise StudyError(
                f"storage must be a database of Optuna studies or an empty one, but {_shown(url)} holds "
                f"{', '.join(sorted(tables)[:3])}; pass another --storage (the database was not touched)"
            )
        return RDBStorage(url)
    except StudyError:
        raise
    except (ImportError, OSError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _cannot_open(url, error) from error


def _tables(url: str) -> list[str]:
    engine = sqlalchemy.create_engine(url)
    try:
        return sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _cannot_open(where: str, error: Exception) -> StudyError:
    detail = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
    return StudyError(
        f"storage must be an Optuna journal file or a database URL, but {_shown(where)} cannot be opened "
        f"as a study ({detail}); pass another --storage"
    )


def _shown(where: str) -> str:
    """``where`` without the password that a database URL may carry."""
    if "://" not in where:
        return str(Path(where).expanduser().absolute())
    try:
        return sqlalchemy.make_url(where).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return where.split("://", 1)[0] + "://..."


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
