"""How far a search is: a snapshot after every step, drawn as a bar on a terminal or as a line every few seconds."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TextIO

LINE_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Snapshot:
    """The state of a search. ``done`` of ``trials`` candidates are evaluated, ``ahead`` are compiling or waiting.

    ``best_us`` and ``best_efficiency`` are of the best verified config, None until there is one; ``measured`` says
    whether they are times of a GPU or of the model. ``failures`` counts proposals by kind, infeasible ones included.
    """

    done: int
    trials: int
    ahead: int
    best_us: float | None
    best_efficiency: float | None
    failures: Mapping[str, int]
    elapsed_s: float
    budget_s: float
    measured: bool
    new: int
    """Candidates evaluated by this run; the others were in the study already."""
    part: int = 0
    """Searches that ended before this one, where several of ``parts`` follow each other."""
    parts: int = 1

    @property
    def left_s(self) -> float:
        """Seconds until the search ends at its present pace, at most until its budget is spent."""
        limit_s = max(0.0, self.budget_s - self.elapsed_s)
        if not self.new:
            return limit_s
        return min(limit_s, self.elapsed_s / self.new * max(0, self.trials - self.done))

    def __str__(self) -> str:
        parts = [f"{self.done}/{self.trials} trials", f"{_clock(self.left_s)} left"]
        if self.best_us is not None and self.best_efficiency is not None:
            kind = "" if self.measured else " modelled"
            parts.append(f"best {self.best_us:.1f} us{kind}, efficiency {self.best_efficiency:.1%}")
        outcomes: Counter[str] = Counter()
        for kind, count in self.failures.items():
            outcomes[kind.partition(":")[0]] += count  # without the rule that an infeasible one breaks
        parts += [f"{count} {outcome}" for outcome, count in outcomes.most_common()]
        line = ", ".join([*parts, f"{self.ahead} ahead"])
        return line if self.parts == 1 else f"{self.part + 1} of {self.parts}: {line}"


Report = Callable[[Snapshot], None]


def one_of(parts: int, part: int, report: Report) -> Report:
    """Reports for one of several searches."""
    return lambda snapshot: report(replace(snapshot, part=part, parts=parts))


def silent(snapshot: Snapshot) -> None:
    """Report nothing."""


@contextmanager
def terminal_progress(stream: TextIO | None = None) -> Iterator[Report]:
    """Progress for a person: a live bar when ``stream`` (stderr by default) is a terminal, else a line now and then."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _Lines(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("compiling the first candidates", total=None)

        def report(snapshot: Snapshot) -> None:
            share = snapshot.part + min(1.0, snapshot.done / snapshot.trials)
            bar.update(task, completed=share, total=snapshot.parts, description=str(snapshot))

        yield report


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_s = time.monotonic()

    def __call__(self, snapshot: Snapshot) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= LINE_INTERVAL_S:
            self._last_s = now_s
            print(snapshot, file=self._stream, flush=True)


def _clock(seconds: float) -> str:
    if math.isinf(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
