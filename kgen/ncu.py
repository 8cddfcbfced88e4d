"""Nsight Compute: the counters of the kernels that a command launches between cudaProfilerStart and Stop.

Caches are not flushed and kernels are not replayed, so that each finds the caches as the one before leaves them; where
ncu needs several passes, it runs the command again.
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kgen.errors import KgenError
from kgen.nvidia_tools import run_to_end

_SHOWN_LINES = 5


class CountersError(KgenError):
    """A command's kernels could not be counted."""


class NotPermittedError(KgenError):
    """The driver lets nobody but root read counters."""


@dataclass(frozen=True)
class Launch:
    """One launch's counters, by name."""

    kernel: str
    counters: Mapping[str, float]


@dataclass(frozen=True)
class Profiler:
    """ncu's executable, and how long one run of it may take."""

    command: str
    timeout_s: float

    def known(self, counters: Sequence[str]) -> list[str]:
        """Those of the counters that ncu knows on this GPU; all of them when it does not tell."""
        _, output = run_to_end([self.command, "--query-metrics"], self.timeout_s)
        names = {line.split()[0] for line in output.splitlines() if line.strip()}
        return [name for name in counters if _base(name) in names] or list(counters)

    def run(self, child: Sequence[str], counters: Sequence[str]) -> tuple[Launch, ...]:
        """The kernels that a command launches while it is profiled, in order.

        Raises:
            CountersError: ncu counted nothing; the message has the end of its output.
            NotPermittedError: it may not read counters.
        """
        output = self._log(child, counters)
        launches = parse(output)
        refused = _named_in_errors(counters, output)
        if not launches and refused:
            output = self._log(child, [name for name in counters if name not in refused])
            launches = parse(output)
        if not launches:
            told = " | ".join([line for line in output.splitlines() if line.strip()][-_SHOWN_LINES:])
            raise CountersError(
                f"ncu must count the kernels that it runs, but it counted none and ended with: {told}; run it by hand, "
                "or go on without counters"
            )
        return launches

    def _log(self, child: Sequence[str], counters: Sequence[str]) -> str:
        """What ncu and the child print."""
        options = ["--csv", "--page", "raw", "--print-units", "base", "--profile-from-start", "off"]
        options += ["--replay-mode", "application", "--cache-control", "none", "--clock-control", "none"]
        options += ["--target-processes", "all", "--metrics", ",".join(counters)]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "ncu.csv"
            _, output = run_to_end([self.command, *options, "--log-file", str(log), *child], self.timeout_s)
            output += log.read_text(errors="replace") if log.exists() else ""
        if "ERR_NVGPUCTRPERM" in output:
            raise NotPermittedError(
                "reading the GPU's counters must be permitted, but the driver refuses it (ERR_NVGPUCTRPERM); run as "
                "root, or load the driver with NVreg_RestrictProfilingToAdminUsers=0"
            )
        return output


def parse(output: str) -> tuple[Launch, ...]:
    """The launches in ncu's CSV among its other output, in order; cells without a number are left out."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    starts = [at for at, line in enumerate(lines) if line.startswith('"ID"')]
    if not starts:
        return ()
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(lines[starts[-1] :]):
        kernel = (row.get("Kernel Name") or "").partition("(")[0]
        if not kernel:
            continue
        _, counters = found.setdefault(row["ID"], (kernel, {}))
        # A line a launch, with a column for each counter; or, as some versions have it, a line for each counter.
        cells = [(row["Metric Name"], row["Metric Value"])] if "Metric Name" in row else row.items()
        for name, text in cells:
            value = _number(text) if name and "__" in name else None
            if value is not None:
                counters[name] = value
    return tuple(Launch(kernel, counters) for kernel, counters in found.values())


def _base(counter: str) -> str:
    """A counter's name without the way it is summed up."""
    return counter.partition(".")[0]


def _named_in_errors(counters: Iterable[str], output: str) -> set[str]:
    """The counters that lines of errors name."""
    lines = [line for line in output.splitlines() if "==ERROR==" in line or "==WARNING==" in line]
    return {counter for counter in counters if any(_base(counter) in line for line in lines)}


def _number(text: str | None) -> float | None:
    """A cell's number; None for n/a and the like."""
    try:
        value = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
