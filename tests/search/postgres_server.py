"""A PostgreSQL server of the tests' own, on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any


class Postgres:
    """A server that can be stopped and started; ``url`` gives a database's."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "--auth=trust", "--username=kgen", "--no-sync", "-D", folder / "data")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-D", self._folder / "data", "-l", self._folder / "log", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._folder / "data")

    def new_database(self) -> str:
        import psycopg

        name = f"studies_{uuid.uuid4().hex}"
        with psycopg.connect(f"postgresql://kgen@127.0.0.1:{self.port}/postgres", autocommit=True) as server:
            server.execute(f"create database {name}")
        return f"postgresql+psycopg://kgen:secret@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: object) -> None:
        # The server refuses to run as root.
        other: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, timeout=60, **other)


def server_programs() -> Path | None:
    """The folder of the server's programs, which Debian keeps off the PATH; None where there are none."""
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    return None if found is None else Path(found).resolve().parent
