from __future__ import annotations

import json
import multiprocessing
import stat
import warnings
from pathlib import Path

import pytest

from kgen import cache
from kgen.cache import Cubin, Resources

DIGEST = "0123abcd"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path / "cache" / "kernels"


def _cubin(data: bytes = b"\x7fELF" + bytes(4096), digest: str = DIGEST) -> Cubin:
    resources = {"convfirst": Resources(168, 8, 16, 24, 1024), "project": Resources(96, 0, 0, 0, 0)}
    return Cubin(data, "sm_90", digest, resources, "ptxas info : \u00fc", 0.25)


def test_what_is_stored_is_loaded(folder: Path) -> None:
    assert cache.load(DIGEST) is None
    cache.store(_cubin())
    assert cache.load(DIGEST) == _cubin()
    assert cache.load("another") is None


def test_entries_are_private_and_plain(folder: Path) -> None:
    cache.store(_cubin())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.suffix for path in folder.iterdir()) == [".cubin", ".json"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert json.loads((folder / f"{DIGEST}.json").read_text())["arch"] == "sm_90"
    assert (folder / f"{DIGEST}.cubin").read_bytes() == _cubin().data


@pytest.mark.parametrize("suffix", [".json", ".cubin"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove", "folder"])
def test_a_damaged_entry_is_a_miss_and_is_replaced(folder: Path, suffix: str, damage: str) -> None:
    cache.store(_cubin())
    path = folder / f"{DIGEST}{suffix}"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "remove":
        path.write_bytes({"truncate": data[:-7], "empty": b"", "flip": bytes([data[0] ^ 1]) + data[1:]}[damage])
    assert cache.load(DIGEST) is None
    if damage != "folder":
        cache.store(_cubin())
        assert cache.load(DIGEST) == _cubin()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"digest": "ffff"},
        {"resources": {}},
        {"resources": {"k": {"registers": 8}}},
        {"resources": {"k": 8}},
        {"resources": {"k": {"registers": "many"}}},
        {"resources": {"k": {"registers": 1, "unknown": 1}}},
        {"seconds": None},
    ],
    ids=str,
)
def test_an_entry_of_another_shape_is_a_miss(folder: Path, change: dict[str, object]) -> None:
    cache.store(_cubin())
    path = folder / f"{DIGEST}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert cache.load(DIGEST) is None


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "{}"])
def test_json_of_another_type_is_a_miss(folder: Path, text: str) -> None:
    cache.store(_cubin())
    (folder / f"{DIGEST}.json").write_text(text)
    assert cache.load(DIGEST) is None


def test_a_cubin_copied_under_another_digest_is_a_miss(folder: Path) -> None:
    cache.store(_cubin())
    for suffix in (".json", ".cubin"):
        (folder / f"other{suffix}").write_bytes((folder / f"{DIGEST}{suffix}").read_bytes())
    assert cache.load("other") is None


def test_every_part_of_the_key_counts() -> None:
    keys = {
        cache.entry_digest("a", "sm_90", ("-std=c++17",), "13.0"),
        cache.entry_digest("b", "sm_90", ("-std=c++17",), "13.0"),
        cache.entry_digest("a", "sm_90a", ("-std=c++17",), "13.0"),
        cache.entry_digest("a", "sm_90", ("-std=c++20",), "13.0"),
        cache.entry_digest("a", "sm_90", ("-std=c++17",), "13.1"),
    }
    assert len(keys) == 5
    assert cache.entry_digest("a", "sm_90", ["-std=c++17"], "13.0") in keys


def test_an_unwritable_cache_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="set KGEN_CACHE_DIR to a folder you can write"):
        cache.store(_cubin())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(_cubin())
    assert cache.load(DIGEST) is None


def _store_many(number: int) -> int:
    """Write one entry over and over, with other bytes from each process; count what is read and is not whole."""
    broken = 0
    for _ in range(20):
        cache.store(_cubin(bytes([number]) * 20000))
        found = cache.load(DIGEST)
        broken += found is not None and len(set(found.data)) != 1
    return broken


def test_two_processes_may_write_the_same_entry(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_store_many, (1, 2), chunksize=1) == [0, 0]
    cache.store(_cubin())
    assert cache.load(DIGEST) == _cubin()
    assert sorted(path.suffix for path in folder.iterdir()) == [".cubin", ".json"]
