"""Hand-written sources for the emulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary, build

TEMPLATES = Path(__file__).parents[2] / "templates"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class HandWritten:
    """Stands in for a rendered source."""

    text: str
    headers: Mapping[str, str]
    digest: str = ""


@pytest.fixture(scope="session")
def make_source() -> Callable[[str], HandWritten]:
    """Source from text in which ``KERNEL(name) {...}`` stands for a kernel with the usual signature."""
    headers = {f"ptx/{path.name}": path.read_text(encoding="utf-8") for path in (TEMPLATES / "ptx").glob("*.cuh")}

    def make(text: str) -> HandWritten:
        signature = (
            r'extern "C" __global__ void __launch_bounds__(1024) '
            r"\1(const f16* x, const unsigned char* weights, f16* hidden, f16* y, int batch)"
        )
        includes = "".join(f'#include "{name}"\n' for name in sorted(headers))
        return HandWritten(includes + re.sub(r"KERNEL\((\w+)\)", signature, text), headers)

    return make


@pytest.fixture(scope="session")
def make_library(make_source: Callable[[str], HandWritten]) -> Callable[[str], HostLibrary]:
    return lambda text: build(make_source(text))


@pytest.fixture(scope="session")
def launch() -> Callable[..., Array]:
    """Runs a kernel on one CTA (unless told otherwise) and returns y, which starts full of NaN."""

    def run(library: HostLibrary, symbol: str, **changes: Any) -> Array:
        words = changes.pop("y_words", 4096)
        arguments: dict[str, Any] = {
            "grid": 1,
            "threads": 32,
            "shared_bytes": 4096,
            "x": np.zeros(4096, np.float16),
            "weights": np.zeros(4096, np.uint8),
            "hidden": None,
            "y": np.full(2 * words, np.nan, np.float16),
            "batch": 0,
        }
        arguments.update(changes)
        library.run(symbol, **arguments)
        return np.asarray(arguments["y"])

    return run
