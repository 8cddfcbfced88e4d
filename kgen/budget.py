"""A command's budget of wall time, as ``60s``, ``5m`` or ``1h``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from kgen.errors import ProblemError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """``seconds`` of wall time from ``start_s`` on, a time of :func:`time.monotonic`, by default that of its making.

    Processes of one machine agree on that clock, which does not jump when the date is set.
    """

    seconds: float
    start_s: float = field(default_factory=time.monotonic)

    @property
    def end_s(self) -> float:
        """When it is spent."""
        return self.start_s + self.seconds

    def share(self, parts: int) -> Budget:
        """What is left of it, divided by ``parts``, from now on."""
        return Budget(max(0.0, self.end_s - time.monotonic()) / parts)


def parse_seconds(text: str) -> float:
    """Seconds of ``--budget``: a positive number with a unit, ``s``, ``m`` or ``h``.

    Raises:
        ProblemError: it is something else.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh])", text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not seconds > 0:
        raise ProblemError(
            f"--budget must be a time greater than 0 with its unit, but got {text!r}; pass 60s, 5m or 1h"
        )
    return seconds
