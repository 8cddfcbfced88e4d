"""Where kgen keeps its files, which versions it runs with, and how it writes a file that others may be reading."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import platformdirs


def cache_dir() -> Path:
    """The user's cache folder: created, mode 0700; ``$KGEN_CACHE_DIR`` overrides it.

    Raises:
        OSError: when the folder cannot be created.
    """
    chosen = os.environ.get("KGEN_CACHE_DIR")
    path = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("kgen", appauthor=False))
    private_folder(path)
    return path


def user_tuned_dir() -> Path:
    """The user's folder of tuned configs, which may not exist yet; ``$KGEN_TUNED_DIR`` overrides it."""
    chosen = os.environ.get("KGEN_TUNED_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_data_dir("kgen", appauthor=False)) / "tuned_configs"


def private_folder(path: Path) -> None:
    """Create ``path`` with its parents; a folder made here is the user's alone, since cubins in it are executed."""
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def cores() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version() -> str:
    """kgen's version, ``"unknown"`` when it runs from a source tree that is not installed."""
    try:
        return metadata.version("kgen")
    except metadata.PackageNotFoundError:
        return "unknown"


def load_nvrtc() -> ModuleType:
    """CuPy's binding of NVRTC, without the rest of CuPy.

    Raises:
        ImportError: CuPy is not installed.
        RuntimeError: CuPy is installed but NVRTC's shared library was not found.
    """
    from cupy_backends.cuda.libs import nvrtc

    module: ModuleType = nvrtc
    module.getVersion()  # the library is loaded at the first call, not at import
    return module


def nvrtc_version() -> str | None:
    """Version of the NVRTC that compiles kernels, such as ``"13.0"``; None when there is none."""
    try:
        major, minor = load_nvrtc().getVersion()
    except (ImportError, OSError, RuntimeError):
        return None
    return f"{major}.{minor}"


def atomic_write(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a reader, or a crash, sees either the old file or the whole new one.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; ``path`` is then as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
