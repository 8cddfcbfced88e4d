"""Processes that search a study beside the one that started them, each on a GPU of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import TypeVar

from kgen.search.shared import SharedStudy

from kgen.errors import KgenError

T = TypeVar("T")

CONTEXT: multiprocessing.context.BaseContext = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
FAILED = 2


class Helpers:
    """One process for each task, which runs ``search(task)``; use it as a context manager.

    :meth:`wait` lets them finish; leaving the block ends them, and so does the death of this process. The trials of one
    that dies are freed, and the others go on.
    """

    def __init__(self, study: SharedStudy, search: Callable[[T], object], tasks: Sequence[T]) -> None:
        self._study = study
        self._processes = [CONTEXT.Process(target=_run, args=(search, task)) for task in tasks]  # type: ignore[attr-defined]
        self._watchers = [threading.Thread(target=self._watch, args=(one,), daemon=True) for one in self._processes]

    def __enter__(self) -> Helpers:
        for part in (*self._processes, *self._watchers):
            part.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
        self.wait()

    def wait(self) -> None:
        """Until every process has ended."""
        for watcher in self._watchers:
            watcher.join()

    def _watch(self, process: BaseProcess) -> None:
        process.join()
        died = process.exitcode not in (0, FAILED, -signal.SIGTERM)  # the last: ended before it began
        self._study.free_of(process.pid, died=died)  # one that is told to end may do so while it asks for a trial
        if died:
            warnings.warn(f"one GPU's search ended with exit code {process.exitcode}; the others go on", stacklevel=1)


def _run(search: Callable[[T], object], task: T) -> None:
    """What the process runs. Ctrl-C is the parent's to hear, which then ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        search(task)
    except KeyboardInterrupt:
        pass
    except KgenError as error:
        print(f"kgen: {error}", file=sys.stderr)
        sys.exit(FAILED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a helper has a parent"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
