"""The performance model's favourites: where a search of a family's space should start."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from kgen.devices import Device
from kgen.machine import Program
from kgen.model import predict_us

_DRAWS = 1500
_STARTS = 2
_NEAR = 1.5
"""Climbed from is what is predicted to take at most so many times as long as the best: climbing gains about a third."""
_ALIKE = 2
"""Favourites that may agree in all of a kind's fields: the model is too coarse to tell them apart."""
Rank = tuple[float, int]


@dataclass(frozen=True)
class Space:
    """A family's search space: its functions of problem, config and device, by the names they have in the family."""

    plan: Callable[[Any, Any, Device], Program]
    choices: Callable[[Any, Device], Mapping[str, Any]]
    draw: Callable[[Any, Device, random.Random], Any]
    neighbours: Callable[[Any, Any, Device], Iterator[Any]]
    """Configs one step away, or None where a step leads nowhere."""
    kind: Sequence[str]
    """Fields by which the model tells configs apart."""


def favourites(space: Space, problem: Any, device: Device, count: int) -> list[Any]:
    """The ``count`` feasible configs that the performance model predicts fastest, best first.

    Hill climbing on the model from the best of a fixed random sample; deterministic.
    """
    rng = random.Random(0)
    drawn = {config for config in (space.draw(problem, device, rng) for _ in range(_DRAWS)) if config is not None}
    predicted = {config: _rank(space, problem, config, device) for config in drawn}
    starts = [
        config
        for side in space.choices(problem, device)
        for config in _fastest([c for c in drawn if c.boundary == side], predicted, _STARTS)
    ]
    best_us = min((predicted[start][0] for start in starts), default=0.0)
    for start in starts:
        if predicted[start][0] <= _NEAR * best_us:
            _climb(space, problem, start, device, predicted)
    return _varied(space, predicted, count)


def _varied(space: Space, predicted: Mapping[Any, Rank], count: int) -> list[Any]:
    """The fastest configs, few of a kind and an equal share for each side."""
    chosen: list[Any] = []
    alike: Counter[tuple[object, ...]] = Counter()
    sides: Counter[str] = Counter()
    share = -(-count // len({config.boundary for config in predicted}))
    for config in _fastest(list(predicted), predicted, len(predicted)):
        values = config.to_json()
        kind = tuple(values.get(name) for name in space.kind)
        if alike[kind] < _ALIKE and sides[config.boundary] < share and len(chosen) < count:
            alike[kind] += 1
            sides[config.boundary] += 1
            chosen.append(config)
    return chosen


def _rank(space: Space, problem: Any, config: Any, device: Device) -> Rank:
    """Predicted microseconds; among equals the most shared memory: the deepest pipeline."""
    program = space.plan(problem, config, device)
    return predict_us(program), -sum(kernel.shared_bytes for kernel in program.kernels)


def _fastest(configs: list[Any], predicted: Mapping[Any, Rank], count: int) -> list[Any]:
    return nsmallest(count, configs, key=lambda config: (predicted[config], str(config)))


def _climb(space: Space, problem: Any, config: Any, device: Device, predicted: dict[Any, Rank]) -> None:
    """Move to the best neighbour until none is better; every config met on the way joins ``predicted``."""
    while True:
        near = [other for other in space.neighbours(problem, config, device) if other is not None]
        for other in near:
            if other not in predicted:
                predicted[other] = _rank(space, problem, other, device)
        best = min(near, key=predicted.__getitem__, default=config)
        if predicted[best] >= predicted[config]:
            return
        config = best


def single_changes(config: Any, values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every other value of every field."""
    for name, options in values.items():
        for option in options:
            if option != getattr(config, name):
                yield {name: option}
