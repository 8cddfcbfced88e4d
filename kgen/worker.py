"""Candidates are verified and timed in a child process, which may crash or hang without taking the tuner down.

The child is a plain interpreter in a session of its own, so that Ctrl-C reaches the parent alone. It speaks over a
socket, which closes when the parent dies, however it dies; the child then exits, whatever it is running.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from kgen.cases import cached_case
from kgen.devices import Device
from kgen.errors import DeviceError
from kgen.jobs import Job, Outcome, Result, run_jobs

__all__ = ["Job", "Outcome", "Result", "Worker"]

_START_LIMIT_S = 120.0
_PREPARE_LIMIT_S = 600.0
_DYING_LIMIT_S = 10.0  # a dying process may have a GPU context to tear down, or a core to dump
_SERVE = "from kgen.worker import serve; serve({handle}, {ordinal})"
_READY, _PREPARED = "ready", "prepared"


class Worker:
    """One child process that runs jobs, replaced whenever it hangs or dies; use it as a context manager.

    A device without an ordinal makes an emulator worker: candidates are verified on the CPU and not timed.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._child: _Child | None = _Child(device)

    def run(self, job: Job, timeout_s: float, meanwhile: Callable[[], object] = lambda: None) -> Result:
        """:meth:`run_together` for one job; ``meanwhile`` is called once while the child is at it."""
        (result,) = self._run([job], timeout_s, meanwhile)
        return result

    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]:
        """Run jobs of one problem, timed turn by turn. A bad candidate never raises: its result says what happened.

        One that hangs or ends the process leaves the others without a result of their own, too. ``timeout_s`` limits
        the candidates alone, not the child's start or the float64 reference of a new problem.

        Raises:
            DeviceError: the child cannot start, or prepare the problem's case, as when the GPU is gone.
        """
        return self._run(jobs, timeout_s, lambda: None)

    def _run(self, jobs: Sequence[Job], timeout_s: float, meanwhile: Callable[[], object]) -> tuple[Result, ...]:
        start = time.perf_counter()
        try:
            child = self._prepared(jobs)
            meanwhile()
            reply = self._ask(child, jobs, timeout_s)
        except BaseException:  # Ctrl-C too: the reply to an abandoned job must not be taken for the next one's
            self.close()
            raise
        seconds = time.perf_counter() - start if reply.seconds is None else reply.seconds
        return tuple(replace(result, seconds=seconds) for result in reply.results)

    def _prepared(self, jobs: Sequence[Job]) -> _Child:
        """A child that is about to run ``jobs``; one that was killed while it started or waited is replaced, once."""
        try:
            return self._prepare(jobs)
        except DeviceError:
            return self._prepare(jobs)

    def _prepare(self, jobs: Sequence[Job]) -> _Child:
        child = self._child = self._child or _Child(self._device)
        try:
            child.await_start(_START_LIMIT_S)
            child.send(tuple(jobs))
            child.receive(_PREPARE_LIMIT_S)
        except (EOFError, OSError):
            epitaph = child.epitaph()
            self.close()
            raise DeviceError(
                f"a worker process for {self._device.name} must start, but it ended with {epitaph}; "
                "check the GPU and its driver with nvidia-smi"
            ) from None
        return child

    def _ask(self, child: _Child, jobs: Sequence[Job], timeout_s: float) -> _Reply:
        try:
            reply: _Reply = child.receive(timeout_s)
        except TimeoutError:
            self.close()
            late = f"a candidate must finish within {timeout_s:g} s, but it was still running"
            return _Reply((Result(Outcome.TIMEOUT, late),) * len(jobs))
        except (EOFError, OSError, pickle.UnpicklingError):
            epitaph = child.epitaph()
            self.close()
            reason = f"a candidate must not end its worker process, but it ended with {epitaph}"
            return _Reply((Result(Outcome.CRASHED, reason),) * len(jobs))
        if not reply.healthy:
            self.close()
        return reply

    def close(self) -> None:
        """End the child; idempotent, and a later :meth:`run` starts another one."""
        if self._child is not None:
            self._child.bury()
            self._child = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class _Reply:
    """Results, and whether the child can take other jobs: an illegal GPU access spoils its CUDA context.

    ``seconds`` is the time that the child was at it, None where it gave no answer.
    """

    results: tuple[Result, ...]
    healthy: bool = False
    seconds: float | None = None


class _Child:
    """The child process as the parent sees it."""

    def __init__(self, device: Device) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by bury)
        self._pipe, theirs = Pipe()
        serve_call = _SERVE.format(handle=theirs.fileno(), ordinal=device.ordinal)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {serve_call}"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"a worker process could not be started ({error}); free some memory") from None
        finally:
            theirs.close()
        self._started = False

    def await_start(self, timeout_s: float) -> None:
        """Wait until the child is ready for jobs; TimeoutError, EOFError or OSError when it is not."""
        if not self._started:
            self.receive(timeout_s)
            self._started = True

    def send(self, jobs: tuple[Job, ...]) -> None:
        """Send jobs to run together; OSError when the child is gone."""
        self._pipe.send(jobs)

    def receive(self, timeout_s: float) -> Any:
        """The child's next message; TimeoutError when it takes longer, EOFError or OSError when the child is gone."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        return self._pipe.recv()

    def epitaph(self) -> str:
        """How a dying process ended, with the last line it wrote."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        said = next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_DYING_LIMIT_S)
            return (signal.Signals(-code).name if code < 0 else f"exit code {code}") + said
        return f"no answer{said}"

    def bury(self) -> None:
        """Kill the process; a kernel that hangs the driver too is left behind."""
        self._pipe.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_LIMIT_S)
        self._said.close()


def serve(handle: int, ordinal: int | None) -> None:
    """What the child runs: jobs in, replies out, until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe: Connection[Any, Any] = Connection(handle)
    waiting: queue.SimpleQueue[tuple[Job, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(pipe, waiting), daemon=True).start()
    if ordinal is not None:
        from cupy_backends.cuda.api import runtime

        runtime.setDevice(ordinal)
        runtime.deviceSynchronize()
    pipe.send(_READY)
    while True:
        jobs = waiting.get()
        start = time.perf_counter()
        if ordinal is not None:
            cached_case(jobs[0].problem)
        pipe.send(_PREPARED)
        results = run_jobs(jobs)
        passed = all(result.outcome is Outcome.OK for result in results)
        pipe.send(_Reply(results, passed or _healthy(ordinal), time.perf_counter() - start))


def _read_jobs(pipe: Connection[Any, Any], waiting: queue.SimpleQueue[tuple[Job, ...]]) -> None:
    """Reading in a thread notices the parent's death while the main thread waits for a kernel that never ends."""
    while True:
        try:
            waiting.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)


def _healthy(ordinal: int | None) -> bool:
    """Whether the CUDA context survived: an illegal access makes every later call fail."""
    if ordinal is None:
        return True
    from cupy_backends.cuda.api import runtime

    try:
        runtime.deviceSynchronize()
    except RuntimeError:
        return False
    return True
