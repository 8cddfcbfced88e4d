"""Search: Optuna proposes configs, candidates compile ahead, a worker verifies and measures them, the best is saved."""

from __future__ import annotations

from kgen.search.progress import Report, Snapshot, one_of, silent, terminal_progress
from kgen.search.recording import record
from kgen.search.tuner import Found, SearchInterrupted, find, tune

__all__ = [
    "Found",
    "Report",
    "SearchInterrupted",
    "Snapshot",
    "find",
    "one_of",
    "record",
    "silent",
    "terminal_progress",
    "tune",
]
