"""The performance model's favourites: where a search of the convfirst space should start."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from heapq import nsmallest

from kgen.blocks.convfirst.config import ConvFirstConfig
from kgen.blocks.convfirst.plan import plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.space import choices, draw, relax
from kgen.devices import Device
from kgen.model import predict_us

_DRAWS = 1500
_STARTS = 2
_ALIKE = 2
"""Favourites that may share boundary, tile, warps and hidden chunk: the model is too coarse to tell them apart."""


def favourites(problem: ConvFirst, device: Device, count: int) -> list[ConvFirstConfig]:
    """The ``count`` feasible configs that the performance model predicts fastest, best first.

    Hill climbing on the model from the best of a fixed random sample; deterministic.
    """
    rng = random.Random(0)
    drawn = {config for config in (draw(problem, device, rng) for _ in range(_DRAWS)) if config is not None}
    predicted = {config: _predict_us(problem, config, device) for config in drawn}
    starts = [
        config
        for boundary in choices(problem)["boundary"]
        for config in _fastest([c for c in drawn if c.boundary == boundary], predicted, _STARTS)
    ]
    for start in starts:
        _climb(problem, start, device, predicted)
    return _varied(predicted, count)


def _varied(predicted: dict[ConvFirstConfig, float], count: int) -> list[ConvFirstConfig]:
    """The fastest configs, few of a kind and an equal share for each fusion boundary."""
    chosen: list[ConvFirstConfig] = []
    alike: Counter[tuple[object, ...]] = Counter()
    boundaries: Counter[str] = Counter()
    share = -(-count // len({config.boundary for config in predicted}))
    for config in _fastest(list(predicted), predicted, len(predicted)):
        kind = (config.boundary, config.tile_h, config.tile_w, config.warps_m, config.warps_n, config.hidden_chunk)
        if alike[kind] < _ALIKE and boundaries[config.boundary] < share and len(chosen) < count:
            alike[kind] += 1
            boundaries[config.boundary] += 1
            chosen.append(config)
    return chosen


def _predict_us(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> float:
    return predict_us(plan(problem, config, device))


def _fastest(
    configs: list[ConvFirstConfig], predicted: dict[ConvFirstConfig, float], count: int
) -> list[ConvFirstConfig]:
    return nsmallest(count, configs, key=lambda config: (predicted[config], str(config)))


def _climb(
    problem: ConvFirst, config: ConvFirstConfig, device: Device, predicted: dict[ConvFirstConfig, float]
) -> None:
    """Move to the best neighbour until none is better; every config met on the way joins ``predicted``."""
    while True:
        near = [other for other in _neighbours(problem, config, device) if other is not None]
        for other in near:
            if other not in predicted:
                predicted[other] = _predict_us(problem, other, device)
        best = min(near, key=predicted.__getitem__, default=config)
        if predicted[best] >= predicted[config]:
            return
        config = best


def _neighbours(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Iterator[ConvFirstConfig | None]:
    """One field changed, or a whole tile, or warps with the chunk they share; made feasible where possible."""
    values = choices(problem)
    for name, options in values.items():
        current = getattr(config, name)
        if name == "boundary" or current is None:
            continue
        for option in options:
            if option != current:
                yield relax(problem, replace(config, **{name: option}), device)
    for pixels in values["pixels"]:
        for tile_w in values["tile_w"]:
            tile_h = min(pixels // tile_w, problem.batch * problem.height)
            if 4 * tile_h * tile_w < 3 * pixels:
                continue
            for warps_m in values["warps_m"]:
                tile = {"pixels": pixels, "tile_w": tile_w, "tile_h": tile_h, "warps_m": warps_m}
                if pixels % (16 * warps_m) == 0 and pixels <= 64 * warps_m:
                    for reuse in values["conv_reuse"]:
                        for ctas in (1, 2):
                            change = {**tile, "conv_reuse": reuse, "ctas_per_sm": ctas}
                            yield relax(problem, replace(config, **change), device)
    for warps_n in values["warps_n"] if config.boundary != "layers" else ():
        for blocks in (1, 2, 4):
            chunk = 16 * warps_n * blocks
            for split in values["hidden_split"] if config.boundary == "split" else (1,):
                change = {"warps_n": warps_n, "hidden_chunk": chunk, "hidden_split": split}
                yield relax(problem, replace(config, **change), device)
