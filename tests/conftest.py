"""Caches: one that all tests share, so that what the emulator runs is compiled once, and one of a test's own.

Tests run in as many processes as there are cores, but those on a GPU, which time kernels, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    return None if config.option.markexpr == "not gpu" else 0


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture
def own_cache(shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, but for the emulator's libraries."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for name in ("emulator", "emulator-runtime"):
        (shared_cache / name).mkdir(mode=0o700, exist_ok=True)
        (folder / name).symlink_to(shared_cache / name)
    monkeypatch.setenv("KGEN_CACHE_DIR", str(folder))
    return folder
