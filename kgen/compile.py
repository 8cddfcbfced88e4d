"""Rendered source to cubin with NVRTC, through CuPy's binding and without a GPU, one at a time or in processes.

A pool's children are plain interpreters that speak over pipes and import neither the caller's main module nor CuPy's
array library, so that they start fast; each has a session of its own, so that Ctrl-C reaches the caller alone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from kgen import cache, env
from kgen.cache import Cubin, Resources
from kgen.errors import CompileError

if TYPE_CHECKING:
    from kgen.render import Source

__all__ = ["CompilePool", "Cubin", "Resources", "compile_cubin"]

OPTIONS = ("-std=c++17", "-default-device", "--ptxas-options=-v")
INSTALL = "pip install 'kgen[cuda13]', or 'kgen[cuda12]' for a CUDA 12 driver"

_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '[^']+'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_ERROR_LINE = re.compile(r"^.*\b(?:error|fatal)\b[^:\n]*:.*$", re.MULTILINE)
_SERVE = "from kgen.compile import serve; serve()"


def compile_cubin(source: Source, arch: str) -> Cubin:
    """Compile ``source`` for ``arch`` (such as ``"sm_90"`` or ``"sm_90a"``), or fetch it from the disk cache.

    Raises:
        CompileError: NVRTC is missing, does not know ``arch``, or rejects the source; ``log`` is its output.
    """
    return _cached(source, arch, _build)


def _cached(source: Source, arch: str, build: Callable[[str, Mapping[str, str], str, str], Cubin]) -> Cubin:
    nvrtc = env.nvrtc_version()
    if nvrtc is None:
        raise CompileError(f"compiling needs CuPy and NVRTC, but they were not found; install them: {INSTALL}")
    digest = cache.entry_digest(source.digest, arch, OPTIONS, nvrtc)
    hit = cache.load(digest)
    if hit is not None:
        return hit
    cubin = build(source.text, dict(source.headers), arch, digest)
    cache.store(cubin)
    return cubin


def _no_driver_cache(version: tuple[int, int]) -> tuple[str, ...]:
    """NVRTC 12.9 and later answer a source they have seen from the driver's cache, without the log of resources."""
    return ("--no-cache",) if version >= (12, 9) else ()


def _build(text: str, headers: Mapping[str, str], arch: str, digest: str) -> Cubin:
    """Compile in this process; ``headers`` maps include names to their text."""
    nvrtc = env.load_nvrtc()
    if not re.fullmatch(r"sm_\d+[af]?", arch):
        raise CompileError(f"arch must look like sm_90 or sm_90a, but got {arch!r}")
    start = time.perf_counter()
    program = nvrtc.createProgram(
        text, "kernel.cu", [header.encode() for header in headers.values()], [name.encode() for name in headers]
    )
    try:
        nvrtc.compileProgram(program, (f"-arch={arch}", *OPTIONS, *_no_driver_cache(nvrtc.getVersion())))
        data: bytes = nvrtc.getCUBIN(program)
        log = _program_log(nvrtc.getProgramLog(program))
    except RuntimeError as error:
        log = _program_log(nvrtc.getProgramLog(program))
        raise _rejected(arch, error, log) from None
    finally:
        nvrtc.destroyProgram(program)
    resources = _parse_resources(log)
    if not resources:
        raise CompileError("a source must define a __global__ kernel, but NVRTC's log names none", log)
    return Cubin(data, arch, digest, resources, log, time.perf_counter() - start)


def _program_log(raw: str) -> str:
    return raw.replace("\0", "").strip()  # NVRTC ends each of its parts with a NUL


def _rejected(arch: str, error: RuntimeError, log: str) -> CompileError:
    """What went wrong, in one sentence with the first error line of the log."""
    if "--gpu-architecture" in log or "--nv_arch" in log:
        return CompileError(
            f"arch must be one that NVRTC {env.nvrtc_version()} compiles for, but got {arch}; "
            f"newer GPUs need a newer one: {INSTALL.replace('install', 'install -U', 1)}",
            log,
        )
    line = _ERROR_LINE.search(log)
    return CompileError(f"a source must compile for {arch}, but NVRTC says: {line[0] if line else error}", log)


def _parse_resources(log: str) -> dict[str, Resources]:
    """Resources by kernel symbol out of ptxas' verbose log; functions that were not inlined count to their kernel."""
    parts = _ENTRY.split(log)[1:]
    found = {}
    for symbol, section in zip(parts[::2], parts[1::2], strict=True):
        frames = [tuple(map(int, frame)) for frame in _FRAME.findall(section)]
        registers, shared = _REGISTERS.search(section), _SHARED.search(section)
        if registers is None or not frames:
            continue
        stack, stores, loads = (sum(column) for column in zip(*frames, strict=True))
        found[symbol] = Resources(int(registers[1]), stores, loads, stack, int(shared[1]) if shared else 0)
    return found


class CompilePool:
    """Compiles in child processes; use it as a context manager.

    A child that dies fails its own job with a :class:`CompileError` and is replaced. Leaving the ``with`` block waits
    for what was submitted; leaving it by an exception, Ctrl-C included, cancels what waits and kills the children.
    """

    def __init__(self, processes: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(processes or env.cores(), thread_name_prefix="kgen-compile")
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._running: dict[tuple[str, str], Future[Cubin]] = {}

    def submit(self, source: Source, arch: str) -> Future[Cubin]:
        """Compile in the background; equal jobs that are under way share one future, and with it a cancellation.

        The future raises what :func:`compile_cubin` raises, or a CompileError when the child died.
        """
        key = (source.digest, arch)
        with self._lock:
            future = self._running.get(key)
            if future is not None and not future.cancelled():
                return future
            future = self._threads.submit(_cached, source, arch, self._build_in_child)
            self._running[key] = future
        future.add_done_callback(lambda done: self._forget(key, done))
        return future

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for the submitted jobs, or with ``cancel`` drop those that wait and kill those that run; idempotent."""
        try:
            self._threads.shutdown(wait=not cancel, cancel_futures=cancel)
        except KeyboardInterrupt:  # while waiting
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            self._end_children()

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown(cancel=kind is not None)

    def _end_children(self) -> None:
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.stop()
        self._threads.shutdown(wait=True)  # a thread buries the child it used
        with self._lock:
            while self._idle:
                self._idle.pop().bury()
            self._children.clear()

    def _forget(self, key: tuple[str, str], done: Future[Cubin]) -> None:
        with self._lock:
            if self._running.get(key) is done:
                del self._running[key]

    def _build_in_child(self, text: str, headers: Mapping[str, str], arch: str, digest: str) -> Cubin:
        child = self._take()
        try:
            reply = child.ask((text, headers, arch, digest))
        except (OSError, EOFError, pickle.UnpicklingError):
            raise self._buried(child, arch) from None
        with self._lock:
            self._idle.append(child)
        if isinstance(reply, Cubin):
            return reply
        raise reply

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise CompileError("a compile job must run before its pool shuts down, but the pool was shut down")
            if self._idle:
                return self._idle.pop()
            try:
                child = _Child()
            except OSError as error:
                raise CompileError(f"a compiler process could not be started ({error}); use fewer processes") from None
            self._children.add(child)
            return child

    def _buried(self, child: _Child, arch: str) -> CompileError:
        with self._lock:
            self._children.discard(child)
            closed = self._closed
        code, log = child.bury()
        if closed:
            return CompileError(f"compiling for {arch} was stopped, because its pool was shut down", log)
        return CompileError(
            f"compiling for {arch} must not end its process, but it died with exit code {code}; "
            "if memory ran out, use fewer processes",
            log,
        )


class _Child:
    """A process that compiles one request after the other."""

    def __init__(self) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by bury)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {_SERVE}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def ask(self, request: tuple[str, Mapping[str, str], str, str]) -> Cubin | Exception:
        """Send a request and wait for its reply; OSError, EOFError or UnpicklingError when the process is gone."""
        pipes = self._process.stdin, self._process.stdout
        if pipes[0] is None or pipes[1] is None:
            raise EOFError
        pickle.dump(request, pipes[0])
        pipes[0].flush()
        reply: Cubin | Exception = pickle.load(pipes[1])
        return reply

    def stop(self) -> None:
        """Kill the process; the thread that waits for its reply sees the pipe close."""
        self._process.kill()

    def bury(self) -> tuple[int, str]:
        """Kill the process and close its files; returns its exit code and what it wrote to stderr."""
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # an unsent request cannot be flushed
                if pipe is not None:
                    pipe.close()
        with self._errors as errors:
            errors.seek(0)
            return code, errors.read().decode(errors="replace").strip()


def serve() -> None:
    """What a child runs: compile requests from stdin, reply on stdout, until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)  # whatever else prints must not reach the replies
        while True:
            try:
                request = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                reply: Cubin | Exception = _build(*request)
            except Exception as error:
                reply = error
            pickle.dump(reply, replies)
            replies.flush()
