"""Search: Optuna proposes configs, candidates compile ahead, a worker verifies and measures them, the best is saved."""

from __future__ import annotations

from kgen.search.progress import Report, Snapshot, silent, terminal_progress
from kgen.search.tuner import SearchInterrupted, tune

__all__ = ["Report", "SearchInterrupted", "Snapshot", "silent", "terminal_progress", "tune"]
