"""Which config a command is about: the one given, the tuned one, or the default."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cli.options import parse_config
from kgen.devices import Device
from kgen.tuned import lookup


def choose_config(problem: KernelProblem, device: Device, text: str | None, folder: Path | None) -> tuple[Any, str]:
    """A config and where it comes from; what the user should know of it goes to stderr."""
    if text is not None:
        return parse_config(problem.family, text), "--config"
    found = lookup(problem, device, folder)
    if found is None:
        return family(problem.family).default_config(problem, device), "default"
    sentence = found.sentence()
    if sentence is not None:
        print(f"kgen: {sentence}", file=sys.stderr)
    return found.entry.config, str(found.path)
