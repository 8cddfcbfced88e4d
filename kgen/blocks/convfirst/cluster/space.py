"""The search space of the cluster kernels: the values each field may take, and configs drawn from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from kgen.blocks.activations import SIGMOIDS
from kgen.blocks.convfirst.cluster.rules import MAX_CLUSTER, check
from kgen.blocks.convfirst.config import ClusterConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.drawing import thriftier
from kgen.blocks.layout import ceil_div
from kgen.devices import Device

Choices = dict[str, tuple[Any, ...]]

_MOST_PIXELS = 64
_MOST_PARTS = 4
_WARPS_K = (1, 2, 3, 4, 6, 8, 16)


def choices(problem: ConvFirst, device: Device) -> dict[str, Choices]:
    """Values by side and field, for problems small enough that every cluster finds SMs at once."""
    channels, hidden = problem.channels // 16, problem.hidden // 16
    clusters = tuple(c for c in range(2, MAX_CLUSTER + 1) if channels % c == hidden % c == 0)
    if not device.has_clusters or not clusters or problem.pixels * clusters[0] > _MOST_PIXELS * device.sms:
        return {}
    side: Choices = {
        "cluster": clusters,
        "pixels": _tiles(problem.pixels),
        "hidden_split": tuple(s for s in (1, 2, 3, 4, 6, 8, 12, 16) if hidden % s == 0),
        "warps": (4, 6, 8, 12, 16),
        "expand_warps_k": tuple(k for k in _WARPS_K if channels % k == 0),
        "project_warps_k": tuple(k for k in _WARPS_K if hidden % k == 0),
        "sigmoid": SIGMOIDS[problem.activation],
    }
    return {"cluster": side}


def _tiles(pixels: int) -> tuple[int, ...]:
    """Sizes by fours, and the equal parts of small images."""
    equal = {ceil_div(pixels, parts) for parts in range(1, _MOST_PARTS + 1)}
    return tuple(sorted({*range(16, _MOST_PIXELS + 1, 4)} | {size for size in equal if size <= _MOST_PIXELS}))


def draw(values: Choices, rng: random.Random) -> ClusterConfig:
    """A random config; it may break a rule."""
    return ClusterConfig(boundary="cluster", **{name: rng.choice(options) for name, options in values.items()})


def relax(problem: ConvFirst, config: ClusterConfig, device: Device) -> ClusterConfig | None:
    """The config, or the first of a fixed series of thriftier ones that is feasible, or None."""
    changes = _relaxations(problem, config, device)
    relaxed: ClusterConfig | None = thriftier(problem, config, device, changes, (check,))
    return relaxed


def _relaxations(problem: ConvFirst, config: ClusterConfig, device: Device) -> Iterator[dict[str, Any]]:
    """Steps towards fewer resources of a CTA, taken one after another."""
    yield {"expand_warps_k": 1, "project_warps_k": 1}
    fragments = ceil_div(config.pixels, 16)
    yield {"warps": fragments * (8 // fragments)}
    side = choices(problem, device).get("cluster", {})
    for name in ("cluster", "hidden_split"):
        for value in side.get(name, ()):
            if value > getattr(config, name):
                yield {name: value}
