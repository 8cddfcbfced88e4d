"""The patchconv search space: the values each field may take, and feasible configs drawn from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from kgen.blocks.activations import SIGMOIDS
from kgen.blocks.configs import changed
from kgen.blocks.drawing import Picker, thriftier
from kgen.blocks.favourites import Space, single_changes
from kgen.blocks.favourites import favourites as favourites_of
from kgen.blocks.patchconv import portable, wgmma
from kgen.blocks.patchconv.config import PatchConvConfig, PortableConfig, config_from_json
from kgen.blocks.patchconv.plan import check, plan
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.patchconv.weights import padded_inputs
from kgen.blocks.pointwise_wgmma import CLUSTERS, WARPGROUPS
from kgen.blocks.requirements import Rule
from kgen.devices import Device

Choices = dict[str, tuple[Any, ...]]

_RELAXATIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "portable": ({"ctas_per_sm": 1}, {"stages": 2}, {"warps_k": 1}, {"chunk": 16}),
    "wgmma": ({"deferred": False}, {"stages": 3}),
}
"""Steps towards fewer resources, taken one after another."""
_KIND = ("pixels", "warps_m", "warps_n", "out_split", "chunk", "warpgroups", "outputs")


def choices(problem: PatchConv, device: Device) -> dict[str, Choices]:
    """Values by side and field, of the sides that the problem and the device allow."""
    sides = {"portable": _portable_choices(problem)}
    if wgmma.suits(problem, device):
        sides["wgmma"] = _wgmma_choices(problem)
    return sides


def _portable_choices(problem: PatchConv) -> Choices:
    inputs, blocks = padded_inputs(problem), problem.outputs // 16
    return {
        "pixels": (16, 32, 64, 96, 128, 192, 256),
        "warps_m": (1, 2, 3, 4, 6, 8),
        "warps_n": tuple(n for n in (1, 2, 3, 4, 6, 8) if blocks % n == 0),
        "warps_k": (1, 2, 4),
        "chunk": tuple(c for c in (16, 32, 48, 64, 96, 128, 192, 256) if inputs % c == 0),
        "stages": (2, 3, 4, 6),
        "out_split": tuple(s for s in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if blocks % s == 0),
        "sigmoid": SIGMOIDS[problem.activation],
        "ctas_per_sm": (1, 2, 3, 4),
    }


def _wgmma_choices(problem: PatchConv) -> Choices:
    return {
        "warpgroups": WARPGROUPS,
        "outputs": tuple(n for n in (32, 64, 96, 128, 192, 256) if problem.outputs % n == 0),
        "stages": (3, 4, 5, 6),
        "deferred": (False, True),
        "cluster": CLUSTERS,
        "sigmoid": SIGMOIDS[problem.activation],
    }


def rules(side: str) -> tuple[Rule, ...]:
    """What ties the fields of a side's configs."""
    return portable.RULES if side == "portable" else wgmma.RULES


def default_config(problem: PatchConv, device: Device) -> PortableConfig:
    """A config that is feasible for every problem on every device with 99 KB of shared memory a CTA."""
    blocks = problem.outputs // 16
    return PortableConfig(
        boundary="portable",
        pixels=32,
        warps_m=2,
        warps_n=1,
        warps_k=1,
        chunk=16,
        stages=3,
        out_split=next(s for s in range(1, blocks + 1) if blocks % s == 0 and blocks // s <= 4),
        sigmoid="exp2",
        ctas_per_sm=1,
    )


def draw(problem: PatchConv, device: Device, rng: random.Random) -> PatchConvConfig | None:
    """A random config of a random side, whose fields fit each other; None where it breaks a rule after all."""
    values = choices(problem, device)
    side = rng.choice(list(values))
    picker = Picker(values[side], rng)
    if side == "portable":
        pixels = picker.pick("pixels")
        picker.pick("warps_m", lambda w: pixels % (16 * w) == 0 and pixels // w <= 64)
        blocks = problem.outputs // 16 // picker.pick("out_split")
        picker.pick("warps_n", lambda n: blocks % n == 0)
        warps_k = picker.pick("warps_k")
        picker.pick("chunk", lambda c: c % (16 * warps_k) == 0)
    return relax(problem, config_from_json({"boundary": side, **picker.rest()}), device)


def relax(problem: PatchConv, config: PatchConvConfig, device: Device) -> PatchConvConfig | None:
    """The config, or the first of a fixed series of thriftier ones that is feasible, or None."""
    changes = _RELAXATIONS[config.boundary]
    relaxed: PatchConvConfig | None = thriftier(problem, config, device, changes, (check,))
    return relaxed


def neighbours(problem: PatchConv, config: PatchConvConfig, device: Device) -> Iterator[PatchConvConfig | None]:
    """One field changed, or a tile with its warps; made feasible where possible."""
    values = choices(problem, device)[config.boundary]
    pixels, warps = values.get("pixels", ()), values.get("warps_m", ())
    tiles = [{"pixels": p, "warps_m": m} for p in pixels for m in warps if p % (16 * m) == 0]
    for change in (*single_changes(config, values), *tiles):
        yield relax(problem, changed(config, change), device)


favourites = partial(favourites_of, Space(plan, choices, draw, neighbours, _KIND))
"""The feasible configs of a problem on a device that the model predicts fastest: (problem, device, count)."""
