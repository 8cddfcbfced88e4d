"""Compiled kernels on disk: one JSON file and one ``.cubin`` per digest under the user's cache folder.

Entries are written atomically and checked when read: whatever is corrupt, truncated or of another schema is a miss.
A cache that cannot be written costs a warning, never a compilation.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kgen import env

_SCHEMA_VERSION = 1
_SERIALIZED = re.compile(r"\(C751[0-6]\)")
_warn_lock = threading.Lock()
_warned = False


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of an SM: registers a thread, spill and stack bytes a thread, static shared bytes a CTA.

    ``spill_*_bytes`` count the bytes of spill instructions in the code; a loop executes them many times.
    """

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    static_shared_bytes: int


@dataclass(frozen=True)
class Cubin:
    """A compiled source: ELF image, architecture, cache digest, resources by kernel symbol, and the compiler's log.

    ``seconds`` is what the compilation took when it happened, also for an entry that came from the cache.
    """

    data: bytes
    arch: str
    digest: str
    resources: Mapping[str, Resources]
    log: str
    seconds: float

    @property
    def serialized(self) -> bool:
        """Whether the compiler made wgmma instructions wait for one another, as ptxas' C7510 to C7516 tell."""
        return _SERIALIZED.search(self.log) is not None


def entry_digest(source_digest: str, arch: str, options: Sequence[str], nvrtc: str) -> str:
    """Key of an entry: sha256 over everything that decides the machine code."""
    key = json.dumps([_SCHEMA_VERSION, source_digest, arch, list(options), nvrtc])
    return hashlib.sha256(key.encode()).hexdigest()


def load(digest: str) -> Cubin | None:
    """The entry of ``digest``; None when there is none or it cannot be trusted."""
    try:
        folder = _folder()
        fields = json.loads((folder / f"{digest}.json").read_bytes())
        return _checked(fields, digest, (folder / f"{digest}.cubin").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(cubin: Cubin) -> None:
    """Write an entry; when that fails, warn once per process and go on."""
    fields = {
        "schema_version": _SCHEMA_VERSION,
        "digest": cubin.digest,
        "arch": cubin.arch,
        "cubin_sha256": hashlib.sha256(cubin.data).hexdigest(),
        "seconds": cubin.seconds,
        "resources": {symbol: asdict(resources) for symbol, resources in cubin.resources.items()},
        "log": cubin.log,
    }
    try:
        folder = _folder()
        # The JSON names the cubin's hash, so a reader between the two writes sees a miss, not a mixture.
        env.atomic_write(folder / f"{cubin.digest}.cubin", cubin.data)
        env.atomic_write(folder / f"{cubin.digest}.json", json.dumps(fields, indent=2).encode())
    except OSError as error:
        _warn_once(error)


def _folder() -> Path:
    folder = env.cache_dir() / "kernels"
    env.private_folder(folder)
    return folder


def _checked(fields: dict[str, Any], digest: str, data: bytes) -> Cubin:
    """An entry from its JSON fields; ValueError, KeyError or TypeError when they are not what :func:`store` wrote."""
    found = (fields["schema_version"], fields["digest"], fields["cubin_sha256"])
    if found != (_SCHEMA_VERSION, digest, hashlib.sha256(data).hexdigest()):
        raise ValueError("the entry is of another schema, another digest or another cubin")
    return Cubin(
        data=data,
        arch=str(fields["arch"]),
        digest=digest,
        resources={
            str(symbol): Resources(**{name: int(value) for name, value in counts.items()})
            for symbol, counts in _mapping(fields["resources"]).items()
        },
        log=str(fields["log"]),
        seconds=float(fields["seconds"]),
    )


def _mapping(value: object) -> dict[str, dict[str, int]]:
    if not isinstance(value, dict) or not value or not all(isinstance(counts, dict) for counts in value.values()):
        raise TypeError("resources must map kernel symbols to counts")
    return value


def _warn_once(error: OSError) -> None:
    global _warned
    with _warn_lock:
        if _warned:
            return
        _warned = True
    warnings.warn(
        f"compiled kernels cannot be cached ({error}), so every run compiles them again; "
        "set KGEN_CACHE_DIR to a folder you can write",
        RuntimeWarning,
        stacklevel=2,
    )
