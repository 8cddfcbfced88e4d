"""Efficiency gaps: models by accuracy and latency, each with its ideal and its actual latency.

After the efficiency gap plots of arXiv 2404.03617, whose abstract has the idea; the data's form and the choice of marks
are ours. Ideal latency is operations, 2 per multiply-accumulate, over the device's peak rate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.errors import ProblemError

SCHEMA_VERSION = 1
_FIELDS = {"model": str, "runner": str, "batch": int, "top1_percent": float, "gmacs": float, "latency_ms": float}
_NETWORK_FIELDS = {"network": str, "batch": int, "flops": float, "kgen_us": float}


@dataclass(frozen=True)
class Mark:
    """One model at one batch. ``top1_percent`` is its published ImageNet-1K accuracy, None where there is none.

    Latencies are in milliseconds a batch.
    """

    model: str
    runner: str
    batch: int
    top1_percent: float | None
    ideal_ms: float
    latency_ms: float

    @property
    def gap(self) -> float:
        """How many times its ideal latency the model takes."""
        return self.latency_ms / self.ideal_ms


def load_marks(path: Path, batch: int) -> tuple[Mark, ...]:
    """The marks of one batch size, from a JSON file such as ``benchmarks/gap/imagenet-nvidia-h200.json``.

    Raises:
        ProblemError: the file cannot be read, is of another schema, lacks a field, or has no model at that batch.
    """
    document = _read_models(path)
    return _at(batch, [_mark(path, i, one, document["peak_flops"]) for i, one in enumerate(document["models"])], path)


def load_network_marks(path: Path, batch: int) -> tuple[Mark, ...]:
    """The marks of our networks at one batch size, which have no accuracy, from a file of ``benchmarks/networks.py``.

    Raises:
        ProblemError: the file cannot be read, is no such file, lacks a field, or has no network at that batch.
    """
    document = _read(path)
    rows, environment = document.get("rows"), document.get("environment")
    if not isinstance(rows, list) or not isinstance(environment, dict):
        raise ProblemError(
            f"{path} must have rows and an environment, but it lacks one; make it by benchmarks/networks.py"
        )
    peak_flops = _peak_flops(path, environment)
    return _at(batch, [_network_mark(path, i, row, peak_flops) for i, row in enumerate(rows)], path)


def _at(batch: int, marks: Sequence[Mark], path: Path) -> tuple[Mark, ...]:
    chosen = tuple(mark for mark in marks if mark.batch == batch)
    if not chosen:
        known = ", ".join(map(str, sorted({mark.batch for mark in marks}))) or "none"
        raise ProblemError(f"--batch must be one of those in {path}, {known}, but got {batch}; choose one of them")
    return chosen


def front(marks: Sequence[Mark], latency_ms: Callable[[Mark], float]) -> tuple[Mark, ...]:
    """The marks that no other one beats in both accuracy and latency, fastest first; those without accuracy are out."""
    best: list[Mark] = []
    rated = [mark for mark in marks if mark.top1_percent is not None]
    for mark in sorted(rated, key=lambda one: (latency_ms(one), -(one.top1_percent or 0.0), one.model)):
        if not best or (mark.top1_percent or 0.0) > (best[-1].top1_percent or 0.0):
            best.append(mark)
    return tuple(best)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProblemError(f"{path} must be a readable JSON file of models, but it is not ({error})") from error
    return document if isinstance(document, dict) else {}


def _read_models(path: Path) -> dict[str, Any]:
    document = _read(path)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION or not isinstance(document.get("models"), list):
        raise ProblemError(
            f"{path} must have schema_version {SCHEMA_VERSION} and a list of models, but got {version!r}; write "
            "it like benchmarks/gap/imagenet-nvidia-h200.json"
        )
    _peak_flops(path, document)
    return document


def _peak_flops(path: Path, values: dict[str, Any]) -> float:
    peak = values.get("peak_flops")
    if not isinstance(peak, int | float) or not peak > 0:
        raise ProblemError(f"peak_flops of {path} must be a positive number of operations a second, but got {peak!r}")
    return float(peak)


def _mark(path: Path, i: int, values: Any, peak_flops: float) -> Mark:
    _check(path, f"model {i}", values, _FIELDS)
    ideal_ms = 2e9 * values["gmacs"] * values["batch"] / peak_flops * 1e3
    return Mark(
        values["model"], values["runner"], values["batch"], values["top1_percent"], ideal_ms, values["latency_ms"]
    )


def _network_mark(path: Path, i: int, row: Any, peak_flops: float) -> Mark:
    _check(path, f"row {i}", row, _NETWORK_FIELDS)
    return Mark(row["network"], "kgen", row["batch"], None, row["flops"] / peak_flops * 1e3, row["kgen_us"] / 1e3)


def _check(path: Path, what: str, values: Any, fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        value = values.get(name) if isinstance(values, dict) else None
        if not _fits(value, kind) and not (name == "top1_percent" and value is None):
            wanted = "a positive number" if kind is float else f"of type {kind.__name__}"
            raise ProblemError(f"{name} of {what} in {path} must be {wanted}, but got {value!r}; correct it")


def _fits(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    numbers = (int,) if kind is int else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool) and value > 0
