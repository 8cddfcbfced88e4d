"""Finds a C++ compiler on this machine and builds a rendered source, with the emulator's headers, into a library."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kgen.emulator.library import HostLibrary
from kgen.env import cache_dir
from kgen.errors import CompileError

if TYPE_CHECKING:
    from kgen.render import Source

HERE = Path(__file__).parent
RUNTIME = ("scheduler.cpp", "memory.cpp", "collectives.cpp")
LIBRARY = "kernel.so"
CHECKSUM = "kernel.so.sha256"
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-w"),
    *("-fno-strict-aliasing", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti"),
)
# By default zig builds a C++ library, traps on overflow, and tunes for this very processor.
ZIG_FLAGS = ("-nostdlib++", "-fno-sanitize=undefined", "-mcpu=baseline")
COMPILE_LIMIT_S = 300.0
HOW_TO_GET_ONE = "install g++ or clang++, set CXX, or run: pip install ziglang"


@dataclass(frozen=True)
class Compiler:
    """A working C++ compiler: its command line up to the flags, and what it says of its version."""

    command: tuple[str, ...]
    version: str


def build(source: Source) -> HostLibrary:
    """Compile ``source`` for this machine's CPU, or fetch it from the cache.

    Raises:
        CompileError: there is no C++ compiler, it rejects the source (``log`` is its output), or the source needs a
            header that the emulator lacks.
    """
    compiler = find_compiler(os.environ.get("CXX", ""), os.environ.get("PATH", os.defpath))
    root = _cache_folder()
    folder = root / _digest(source, compiler) if root else None
    library = _load(folder) if folder else None
    if library is None:
        built = Path(tempfile.mkdtemp(dir=root, prefix=".build-"))
        try:
            _compile(source, compiler, built)
            library = HostLibrary(built / LIBRARY)
            if folder:
                _publish(built, folder)
        finally:
            shutil.rmtree(built, ignore_errors=True)
    return library


@lru_cache
def find_compiler(cxx: str, path: str) -> Compiler:
    """The first compiler that works: ``cxx`` (a command line) alone if given, g++, clang++, the ziglang package.

    Raises:
        CompileError: none works.
    """
    if cxx:
        chosen = _probe(tuple(shlex.split(cxx)), path)
        if chosen is None:
            raise CompileError(f"CXX must name a working C++ compiler, but {cxx!r} does not run; correct or unset CXX")
        return chosen
    candidates: list[tuple[str, ...]] = [("g++",), ("clang++",)]
    if importlib.util.find_spec("ziglang") is not None:
        candidates.append((sys.executable, "-m", "ziglang", "c++"))
    for command in candidates:
        compiler = _probe(command, path)
        if compiler is not None:
            return compiler
    raise CompileError(f"the emulator needs a C++ compiler, but found none; {HOW_TO_GET_ONE}")


def _probe(command: tuple[str, ...], path: str) -> Compiler | None:
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    command = (program, *command[1:])
    try:
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Compiler(command, answer.stdout) if answer.returncode == 0 else None


@lru_cache
def _host_files() -> dict[str, str]:
    """The emulator's own sources by path below this folder."""
    paths = [HERE / name for name in RUNTIME] + sorted((HERE / "include").rglob("*.*h"))
    return {path.relative_to(HERE).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _needed_headers(source: Source) -> dict[str, str]:
    """The source's headers that the emulator does not replace."""
    kept = {name: text for name, text in source.headers.items() if f"include/{name}" not in _host_files()}
    for name, text in kept.items():
        if name.startswith("ptx/") and "asm" in text:
            raise CompileError(f"the emulator needs a host version of {name}, but has none; add include/{name} to it")
    return kept


def _flags(compiler: Compiler) -> tuple[str, ...]:
    return FLAGS + ZIG_FLAGS if "ziglang" in compiler.command else FLAGS


def _digest(source: Source, compiler: Compiler) -> str:
    digest = hashlib.sha256()
    own = [f"{name}\0{text}" for name, text in _host_files().items()]
    headers = [f"{name}\0{text}" for name, text in sorted(_needed_headers(source).items())]
    tools = [platform.machine(), compiler.version, *compiler.command, *_flags(compiler)]
    for part in (source.text, *headers, *own, *tools):
        digest.update(part.encode() + b"\0\0")
    return digest.hexdigest()[:32]


def _compile(source: Source, compiler: Compiler, folder: Path) -> None:
    """Write the source and build it in ``folder``; sites in messages are relative to it."""
    (folder / "kernel.cu").write_text(source.text, encoding="utf-8")
    for include_name, text in _needed_headers(source).items():
        header = folder / "headers" / include_name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text, encoding="utf-8")
    include = HERE / "include"
    command = [
        *compiler.command,
        *_flags(compiler),
        *(f"-I{include}", "-Iheaders", "-include", str(include / "builtins.h")),
        *("-x", "c++", "kernel.cu", *(str(HERE / name) for name in RUNTIME)),
        *("-o", LIBRARY, "-lm"),
    ]
    environment = {**os.environ, "LC_ALL": "C"}
    name = shlex.join(compiler.command)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{name} must compile the kernel, but failed: {error}; try again") from error
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "it gave no error message")
        raise CompileError(
            f"{name} must compile the kernel, but rejected it: {first.strip()}; see the log", done.stderr
        )


def _cache_folder() -> Path | None:
    try:
        root = cache_dir() / "emulator"
        root.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        _warn_once(f"the emulator compiles without a cache, because its folder cannot be written: {error}")
        return None
    return root


def _publish(built: Path, folder: Path) -> None:
    """Move a finished build into place, unless another process was first with a good one."""
    (built / CHECKSUM).write_text(_checksum(built / LIBRARY), encoding="ascii")
    with contextlib.suppress(OSError):
        if folder.is_dir() and _load(folder) is None:
            shutil.rmtree(folder)
        built.rename(folder)


def _load(folder: Path) -> HostLibrary | None:
    """The library of a finished build, None when there is none or it is damaged: loading that could crash."""
    try:
        if (folder / CHECKSUM).read_text(encoding="ascii") != _checksum(folder / LIBRARY):
            return None
        return HostLibrary(folder / LIBRARY)
    except (OSError, UnicodeDecodeError):
        return None


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
