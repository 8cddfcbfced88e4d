"""Fixtures of a PostgreSQL server, where tests skip if it cannot be had, and of heartbeats that beat soon."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kgen.search import shared
from postgres_server import Postgres, server_programs

_SKIP = "needs PostgreSQL's server (apt-get install postgresql) and psycopg (pip install 'kgen[postgresql]')"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason=_SKIP)
    programs = server_programs()
    if programs is None:
        pytest.skip(_SKIP)
    folder = Path(tempfile.mkdtemp(prefix="kgen-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    try:
        server = Postgres(programs, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres: Postgres) -> str:
    """URL of an empty database."""
    return postgres.new_database()


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead tuner is taken for dead within seconds."""
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(shared, "HEARTBEAT_S", 1)
    monkeypatch.setattr(shared, "GRACE_S", 2)
