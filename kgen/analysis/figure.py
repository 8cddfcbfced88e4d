"""Figures of matplotlib (extra ``plot``), which is imported only when drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgen.errors import ProblemError

_SUFFIXES = (".svg", ".png", ".pdf")


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty figure of so many inches, to be saved in ``path``.

    Raises:
        ProblemError: the file has another suffix than those of pictures, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ProblemError(f"--plot must end in {', '.join(_SUFFIXES)}, but got {str(path)!r}; choose one of them")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ProblemError(
            f"--plot needs matplotlib, but importing it failed ({error}); install kgen's extra plot"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write a figure, in the format that the file's suffix names.

    Raises:
        ProblemError: the file cannot be written.
    """
    try:
        figure.savefig(path)
    except OSError as error:
        raise ProblemError(
            f"--plot must name a file that can be written, but {str(path)!r} cannot "
            f"({error.strerror or type(error).__name__}); choose another path"
        ) from error
