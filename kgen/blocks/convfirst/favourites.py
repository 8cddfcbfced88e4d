"""The performance model's favourites: where a search of the convfirst space should start."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from heapq import nsmallest
from typing import Any

from kgen.blocks.convfirst.config import ConvFirstConfig, PortableConfig
from kgen.blocks.convfirst.plan import plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.space import Choices, choices, draw, relax
from kgen.devices import Device
from kgen.model import predict_us

_DRAWS = 1500
_STARTS = 2
_ALIKE = 2
"""Favourites that may agree in all of ``_KIND``: the model is too coarse to tell them apart."""
Rank = tuple[float, int]
_KIND = (
    "boundary",
    "tile_h",
    "tile_w",
    "warps_m",
    "warps_n",
    "warpgroups",
    "hidden_chunk",
    "expand_outputs",
    "cluster",
    "pixels",
    "hidden_split",
)


def favourites(problem: ConvFirst, device: Device, count: int) -> list[ConvFirstConfig]:
    """The ``count`` feasible configs that the performance model predicts fastest, best first.

    Hill climbing on the model from the best of a fixed random sample; deterministic.
    """
    rng = random.Random(0)
    drawn = {config for config in (draw(problem, device, rng) for _ in range(_DRAWS)) if config is not None}
    predicted = {config: _rank(problem, config, device) for config in drawn}
    starts = [
        config
        for side in choices(problem, device)
        for config in _fastest([c for c in drawn if c.boundary == side], predicted, _STARTS)
    ]
    for start in starts:
        _climb(problem, start, device, predicted)
    return _varied(predicted, count)


def _varied(predicted: dict[ConvFirstConfig, Rank], count: int) -> list[ConvFirstConfig]:
    """The fastest configs, few of a kind and an equal share for each side."""
    chosen: list[ConvFirstConfig] = []
    alike: Counter[tuple[object, ...]] = Counter()
    sides: Counter[str] = Counter()
    share = -(-count // len({config.boundary for config in predicted}))
    for config in _fastest(list(predicted), predicted, len(predicted)):
        values = config.to_json()
        kind = tuple(values.get(name) for name in _KIND)
        if alike[kind] < _ALIKE and sides[config.boundary] < share and len(chosen) < count:
            alike[kind] += 1
            sides[config.boundary] += 1
            chosen.append(config)
    return chosen


def _rank(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Rank:
    """Predicted microseconds; among equals the most shared memory: the deepest pipeline."""
    program = plan(problem, config, device)
    return predict_us(program), -sum(kernel.shared_bytes for kernel in program.kernels)


def _fastest(
    configs: list[ConvFirstConfig], predicted: dict[ConvFirstConfig, Rank], count: int
) -> list[ConvFirstConfig]:
    return nsmallest(count, configs, key=lambda config: (predicted[config], str(config)))


def _climb(problem: ConvFirst, config: ConvFirstConfig, device: Device, predicted: dict[ConvFirstConfig, Rank]) -> None:
    """Move to the best neighbour until none is better; every config met on the way joins ``predicted``."""
    while True:
        near = [other for other in _neighbours(problem, config, device) if other is not None]
        for other in near:
            if other not in predicted:
                predicted[other] = _rank(problem, other, device)
        best = min(near, key=predicted.__getitem__, default=config)
        if predicted[best] >= predicted[config]:
            return
        config = best


def _neighbours(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Iterator[ConvFirstConfig | None]:
    """One field changed, or a whole tile, or warps with the chunk they share; made feasible where possible."""
    values = choices(problem, device)[config.boundary]
    changes = [*_single_changes(config, values)]
    if isinstance(config, PortableConfig):
        changes += [*_tiles(problem, values), *_warps_and_chunks(config, values)]
    for change in changes:
        yield relax(problem, replace(config, **change), device)


def _single_changes(config: ConvFirstConfig, values: Choices) -> Iterator[dict[str, Any]]:
    for name, options in values.items():
        for option in options:
            if option != getattr(config, name):
                yield {name: option}


def _tiles(problem: ConvFirst, values: Choices) -> Iterator[dict[str, Any]]:
    for pixels in values["pixels"]:
        for tile_w in values["tile_w"]:
            tile_h = min(pixels // tile_w, problem.batch * problem.height)
            if 4 * tile_h * tile_w < 3 * pixels:
                continue
            for warps_m in values["warps_m"]:
                if pixels % (16 * warps_m) == 0 and pixels <= 64 * warps_m:
                    tile = {"pixels": pixels, "tile_w": tile_w, "tile_h": tile_h, "warps_m": warps_m}
                    for reuse in values["conv_reuse"]:
                        for ctas in (1, 2):
                            yield {**tile, "conv_reuse": reuse, "ctas_per_sm": ctas}


def _warps_and_chunks(config: PortableConfig, values: Choices) -> Iterator[dict[str, Any]]:
    for warps_n in values["warps_n"] if config.boundary != "layers" else ():
        for blocks in (1, 2, 4):
            for split in values["hidden_split"]:
                yield {"warps_n": warps_n, "hidden_chunk": 16 * warps_n * blocks, "hidden_split": split}
