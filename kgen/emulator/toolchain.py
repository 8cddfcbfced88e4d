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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from kgen.emulator.library import HostLibrary
from kgen.env import cache_dir, cores
from kgen.errors import CompileError

if TYPE_CHECKING:
    from kgen.render import Source

HERE = Path(__file__).parent
RUNTIME = (
    *("scheduler.cpp", "fibre.cpp", "deadlock.cpp", "memory.cpp", "races.cpp", "clocks.cpp"),
    *("copies.cpp", "mbarrier.cpp", "named_barrier.cpp", "cluster.cpp", "collectives.cpp"),
    *("wgmma.cpp", "matrices.cpp"),
)
LIBRARY = "kernel.so"
CHECKSUM = "sha256"
FLAGS = (
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-w"),
    *("-fno-strict-aliasing", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti"),
)
RUNTIME_LEVEL, KERNEL_LEVEL = "-O2", "-O1"
"""Most of a kernel's time is spent in the runtime; compiling the kernel itself is to take little."""
# By default zig builds a C++ library, traps on overflow, and tunes for this very processor.
ZIG_FLAGS = ("-nostdlib++", "-fno-sanitize=undefined", "-mcpu=baseline")
COMPILE_LIMIT_S = 300.0
_RUNTIME_LOCK = Lock()
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
    root = _cache_folder("emulator")
    folder = root / _digest(source, compiler) if root else None
    library = _load(folder) if folder else None
    if library is None:
        built = Path(tempfile.mkdtemp(dir=root, prefix=".build-"))
        try:
            _compile(source, compiler, built)
            library = HostLibrary(built / LIBRARY)
            if folder:
                _publish(built, folder, (LIBRARY,))
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
    headers = [f"{name}\0{text}" for name, text in sorted(_needed_headers(source).items())]
    return _digest_of(compiler, source.text, *headers)


def _digest_of(compiler: Compiler, *parts: str) -> str:
    """Of the parts, the emulator's own sources and the tools."""
    digest = hashlib.sha256()
    own = [f"{name}\0{text}" for name, text in _host_files().items()]
    tools = [platform.machine(), compiler.version, *compiler.command, *_flags(compiler), RUNTIME_LEVEL, KERNEL_LEVEL]
    for part in (*parts, *own, *tools):
        digest.update(part.encode() + b"\0\0")
    return digest.hexdigest()[:32]


def _runtime(compiler: Compiler) -> list[Path]:
    """The emulator's own sources compiled, once for all kernels; the sources themselves where there is no cache."""
    sources = [HERE / name for name in RUNTIME]
    root = _cache_folder("emulator-runtime")
    if root is None:
        return sources
    objects = tuple(f"{source.stem}.o" for source in sources)
    folder = root / _digest_of(compiler)
    with _RUNTIME_LOCK:
        if not _is_sound(folder, objects):
            built = Path(tempfile.mkdtemp(dir=root, prefix=".build-"))
            try:
                with ThreadPoolExecutor(cores()) as pool:
                    list(pool.map(partial(_compile_own, compiler, built), sources, objects))
                _publish(built, folder, objects)
            finally:
                shutil.rmtree(built, ignore_errors=True)
    return [folder / name for name in objects]


def _compile_own(compiler: Compiler, folder: Path, source: Path, name: str) -> None:
    include = HERE / "include"
    options = (RUNTIME_LEVEL, f"-I{include}", "-include", str(include / "builtins.h"), "-c", str(source), "-o", name)
    _run([*compiler.command, *_flags(compiler), *options], folder, "the emulator")


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
        KERNEL_LEVEL,
        *("-shared", *map(str, _runtime(compiler))),
        *(f"-I{include}", "-Iheaders", "-include", str(include / "builtins.h")),
        *("-x", "c++", "kernel.cu", "-o", LIBRARY, "-lm"),
    ]
    _run(command, folder, "the kernel")


def _run(command: list[str], folder: Path, what: str) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    name = shlex.join(command[: command.index(FLAGS[0])])
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{name} must compile {what}, but failed: {error}; try again") from error
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), "it gave no error message")
        raise CompileError(f"{name} must compile {what}, but rejected it: {first.strip()}; see the log", done.stderr)


def _cache_folder(name: str) -> Path | None:
    try:
        root = cache_dir() / name
        root.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        _warn_once(f"the emulator compiles without a cache, because its folder cannot be written: {error}")
        return None
    return root


def _publish(built: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Move a finished build into place, unless another process was first with a good one."""
    (built / CHECKSUM).write_text(_checksum(built, names), encoding="ascii")
    with contextlib.suppress(OSError):
        if folder.is_dir() and not _is_sound(folder, names):
            shutil.rmtree(folder)
        built.rename(folder)


def _load(folder: Path) -> HostLibrary | None:
    """The library of a finished build, None when there is none or it is damaged: loading that could crash."""
    try:
        return HostLibrary(folder / LIBRARY) if _is_sound(folder, (LIBRARY,)) else None
    except OSError:
        return None


def _is_sound(folder: Path, names: tuple[str, ...]) -> bool:
    try:
        return (folder / CHECKSUM).read_text(encoding="ascii") == _checksum(folder, names)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(folder: Path, names: tuple[str, ...]) -> str:
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


@lru_cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
