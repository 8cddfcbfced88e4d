"""Search: Optuna proposes configs, candidates compile ahead, a worker verifies and measures them, the best is saved."""

from __future__ import annotations

from kgen.search.progress import Report, Snapshot, one_of, silent, terminal_progress
from kgen.search.recorded import read_recorded
from kgen.search.recording import record
from kgen.search.replay import Replayed, replay
from kgen.search.saving import Found
from kgen.search.tuner import SearchInterrupted, find, open_bench, tune

__all__ = [
    "Found",
    "Replayed",
    "Report",
    "SearchInterrupted",
    "Snapshot",
    "find",
    "one_of",
    "open_bench",
    "read_recorded",
    "record",
    "replay",
    "silent",
    "terminal_progress",
    "tune",
]
