"""Databases of studies by URL: one that does not answer is named at once, one that restarts is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from functools import wraps
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from kgen.errors import StudyError

CONNECT_LIMIT_S = 4
"""For each address of a host, of which a name may have several."""
ANSWER_LIMIT_S = 9.0
"""For all of them, and for finding them."""
RESTART_LIMIT_S = 60.0
_WITH_TIMEOUT = ("psycopg", "psycopg2", "pymysql", "mysqldb")


def is_server(where: str) -> bool:
    """Whether a storage is a database server, which machines can share."""
    if "://" not in where:
        return False
    try:
        return sqlalchemy.make_url(where).get_backend_name() != "sqlite"
    except sqlalchemy.exc.ArgumentError:
        return False


def open_database(url: str) -> RDBStorage:
    """The storage at ``url``; a server that goes away later is waited for.

    Raises:
        StudyError: it cannot be opened, or holds something else than studies.
    """
    try:
        tables = tables_of(url)
        if tables and "studies" not in tables:
            raise StudyError(
                f"storage must be a database of Optuna studies or an empty one, but {shown(url)} holds "
                f"{', '.join(sorted(tables)[:3])}; pass another --storage (the database was not touched)"
            )
        storage = _with_tables(url)
    except StudyError:
        raise
    except (ImportError, OSError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise cannot_open(url, error) from error
    sqlalchemy.event.listen(storage.engine, "do_connect", _wait_for_server)
    return storage


class _Patient(RDBStorage):
    """Repeats what a restart of the server cut off; connecting again waits for it.

    Where it was done before the answer was lost, a trial may be there twice, of which one has no tuner and is freed.
    """


def _repeated(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except StorageInternalError:
            return method(*arguments, **options)

    return call


for _name in (*BaseStorage.__abstractmethods__, "_create_new_trial", "_set_trial_param", "_get_trials"):
    setattr(_Patient, _name, _repeated(getattr(RDBStorage, _name)))  # all that Optuna's cache of trials calls


def _with_tables(url: str) -> RDBStorage:
    """The storage, again when another tuner makes the tables at the same moment."""
    for pause_s in (0.5, 1.0, 2.0):
        try:
            return connect(url, _Patient)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            time.sleep(pause_s)
    return connect(url, _Patient)


def connect(url: str, kind: type[RDBStorage] = RDBStorage, **options: Any) -> RDBStorage:
    """The storage at ``url``, which fails at once when the server does not answer; ``options`` are RDBStorage's."""
    return kind(url, engine_kwargs=_engine_options(url), **options)


def tables_of(url: str) -> list[str]:
    """Names of the tables there; TimeoutError when nothing answers in time."""
    engine = sqlalchemy.create_engine(url, **_engine_options(url))
    found: Future[list[str]] = Future()

    def look() -> None:
        try:
            found.set_result(sqlalchemy.inspect(engine).get_table_names())
        except Exception as error:
            found.set_exception(error)
        engine.dispose()

    threading.Thread(target=look, daemon=True).start()
    try:
        return found.result(ANSWER_LIMIT_S)
    except futures.TimeoutError:
        raise TimeoutError(f"no answer within {ANSWER_LIMIT_S:g} s") from None


def cannot_open(where: str, error: Exception) -> StudyError:
    """Why a storage is no study's, without the password that its URL may carry."""
    detail = " ".join((str(error).splitlines() or [type(error).__name__])[0].split())
    if isinstance(error, ModuleNotFoundError) and error.name == "psycopg":
        return StudyError(
            f"storage {shown(where)} needs the psycopg driver, but it is not installed; "
            "run pip install 'kgen[postgresql]'"
        )
    if is_server(where) and isinstance(error, (sqlalchemy.exc.OperationalError, TimeoutError)):
        return StudyError(
            f"a database must let this machine in, but {host(where)} did not ({detail}); check that it runs, and the "
            f"host, port, user and database of --storage {shown(where)}"
        )
    return StudyError(
        f"storage must be an Optuna journal file or a database URL, but {shown(where)} cannot be opened "
        f"as a study ({detail}); pass another --storage"
    )


def shown(where: str) -> str:
    """``where`` without the password that a database URL may carry."""
    if "://" not in where:
        return str(Path(where).expanduser().absolute())
    try:
        return sqlalchemy.make_url(where).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return where.split("://", 1)[0] + "://..."


def host(url: str) -> str:
    """A server's host, with the port if the URL has one."""
    parsed = sqlalchemy.make_url(url)
    return f"{parsed.host or 'localhost'}{f':{parsed.port}' if parsed.port else ''}"


def _engine_options(url: str) -> dict[str, Any]:
    if not is_server(url):
        return {}
    limited = sqlalchemy.make_url(url).get_dialect().driver in _WITH_TIMEOUT
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_LIMIT_S} if limited else {}}


def _wait_for_server(dialect: Any, record: object, arguments: Any, options: Any) -> object:
    """Connect to a server that did answer before; the pool asks for it when a connection turns out to be dead."""
    end_s = time.monotonic() + RESTART_LIMIT_S
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.5)
