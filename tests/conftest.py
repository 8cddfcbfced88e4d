"""Caches: one that all tests share, so that what the emulator runs is compiled once, and one of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
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
