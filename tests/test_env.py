from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kgen import env


def test_cache_dir_is_created_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert env.cache_dir() == tmp_path / "a" / "b"
    assert stat.S_IMODE(env.cache_dir().stat().st_mode) == 0o700


def test_cache_dir_that_is_a_file_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        env.cache_dir()


def test_folders_default_to_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KGEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("KGEN_TUNED_DIR", raising=False)
    monkeypatch.setattr(env.platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr(env.platformdirs, "user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    assert env.cache_dir() == tmp_path / "cache"
    assert env.user_tuned_dir() == tmp_path / "data" / "tuned_configs"
    assert not env.user_tuned_dir().exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores a process may run on")
def test_cores_are_those_this_process_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert env.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert env.cores() == len(allowed)


def test_tuned_dir_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path))
    assert env.user_tuned_dir() == tmp_path


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "entry.json"
    env.atomic_write(path, b"old")
    env.atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "entry.json"
    env.atomic_write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(env.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        env.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nvrtc_version_without_cupy_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", None)
    assert env.nvrtc_version() is None


def test_importing_env_loads_no_cupy() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import kgen.env; print('cupy_backends' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_nvrtc_version_has_a_major_and_a_minor() -> None:
    pytest.importorskip("cupy_backends")
    found = env.nvrtc_version()
    assert found is not None
    assert all(part.isdigit() for part in found.split(".")) and found.count(".") == 1


def test_version_is_never_empty() -> None:
    assert env.version()
