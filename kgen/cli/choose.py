"""Which config a command is about: the one given, the tuned one, or the default."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cli.options import parse_config
from kgen.devices import Device
from kgen.tuned import Measurement, lookup


@dataclass(frozen=True)
class Chosen:
    """A config, where it comes from, and what was measured of it for this problem; None where nothing was."""

    config: Any
    origin: str
    measured: Measurement | None = None


def choose_config(problem: KernelProblem, device: Device, text: str | None, folder: Path | None) -> Chosen:
    """The config to use; what the user should know of it goes to stderr."""
    if text is not None:
        return Chosen(parse_config(problem.family, text), "--config")
    found = lookup(problem, device, folder)
    if found is None:
        return Chosen(family(problem.family).default_config(problem, device), "default")
    sentence = found.sentence()
    if sentence is not None:
        print(f"kgen: {sentence}", file=sys.stderr)
    return Chosen(found.entry.config, str(found.path), found.entry.measured if found.exact else None)
