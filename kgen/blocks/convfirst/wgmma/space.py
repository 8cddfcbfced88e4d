"""The search space of the Hopper kernels: the values each field may take, and configs drawn from it."""

from __future__ import annotations

import random
from typing import Any

from kgen.blocks.activations import SIGMOIDS
from kgen.blocks.convfirst.config import SIDES, WgmmaConfig, WgmmaLayersConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.wgmma.rules import (
    CONV_CHANNELS,
    MAX_ROWS,
    WARPGROUP_PIXELS,
    check,
)
from kgen.blocks.drawing import obeys
from kgen.blocks.pointwise_wgmma import ARCH, CLUSTERS, CORE_BLOCK, MAX_COLUMNS
from kgen.devices import Device

Choices = dict[str, tuple[Any, ...]]

_OUTPUTS = (64, 96, 128, 192, 256)
_STAGES = (3, 4, 5, 6)


def choices(problem: ConvFirst, device: Device) -> dict[str, Choices]:
    """Values by side and field, of the sides that the problem and the device allow."""
    if device.arch != ARCH:
        return {}
    sides = {}
    if problem.channels <= MAX_COLUMNS and problem.matmul == "storage":
        sides["wgmma_fused"] = _fused_choices(problem)
    if problem.channels % CORE_BLOCK == 0 and problem.hidden % CORE_BLOCK == 0:
        sides["wgmma_layers"] = _layers_choices(problem)
    return sides


def default_config(problem: ConvFirst, device: Device) -> WgmmaLayersConfig:
    """A config for float8 matmuls, feasible unless rows are hundreds of pixels wide.

    Raises:
        InfeasibleError: it is not, or the device is no Hopper GPU.
    """
    config = WgmmaLayersConfig(
        boundary="wgmma_layers",
        conv_rows=1,
        conv_images=1,
        conv_channels=16,
        conv_warps=4,
        conv_stages=2,
        expand_warpgroups=2,
        expand_outputs=64,
        expand_stages=3,
        expand_deferred=False,
        project_warpgroups=2,
        project_outputs=64,
        project_stages=3,
        project_deferred=False,
        sigmoid="exp2",
    )
    check(problem, config, device)
    return config


def draw(side: str, values: Choices, rng: random.Random) -> WgmmaConfig:
    """A random config of a side; it may break a rule."""
    make: Any = SIDES[side]
    config: WgmmaConfig = make(boundary=side, **{name: rng.choice(options) for name, options in values.items()})
    return config


def relax(problem: ConvFirst, config: WgmmaConfig, device: Device) -> WgmmaConfig | None:
    """The config if it is feasible, else None."""
    return config if obeys(problem, config, device, (check,)) else None


def _fused_choices(problem: ConvFirst) -> Choices:
    hidden = problem.hidden
    chunks = tuple(chunk for chunk in (16, 32, 48, 64, 96, 128) if hidden % chunk == 0 and hidden // chunk >= 2)
    resident = {2 * hidden // chunk for chunk in chunks}
    return {
        "warpgroups": (1, 2, 3),
        "hidden_chunk": chunks or (hidden // 2,),
        "weight_slots": tuple(sorted({2, 3, 4, 5, 6, 8} | resident)),
        "x_slots": (1, 2),
        "overlap": (True, False),
        "conv_reuse": ("rows", "none") if problem.width % 8 == problem.height % 2 == 0 else ("none",),
        "conv_output": ("registers", "shared"),
        "sigmoid": SIGMOIDS[problem.activation],
        "cluster": CLUSTERS,
        "warpgroup_pixels": WARPGROUP_PIXELS,
    }


def _layers_choices(problem: ConvFirst) -> Choices:
    channels, hidden = problem.channels, problem.hidden
    return {
        "conv_rows": _rows(problem.height),
        "conv_images": (1, 2, 4),
        "conv_channels": tuple(c for c in CONV_CHANNELS if channels % c == 0),
        "conv_warps": (4, 8, 16),
        "conv_stages": (2, 3),
        "expand_warpgroups": (1, 2, 3),
        "expand_outputs": tuple(n for n in _OUTPUTS if hidden % n == 0),
        "expand_stages": _STAGES,
        "expand_deferred": (False, True),
        "project_warpgroups": (1, 2, 3),
        "project_outputs": tuple(n for n in _OUTPUTS if channels % n == 0),
        "project_stages": _STAGES,
        "project_deferred": (False, True),
        "sigmoid": SIGMOIDS[problem.activation],
        "expand_cluster": CLUSTERS,
        "project_cluster": CLUSTERS,
    }


def _rows(height: int) -> tuple[int, ...]:
    """The largest divisors of the height: short tiles load more halo."""
    divisors = [rows for rows in range(1, min(height, MAX_ROWS) + 1) if height % rows == 0]
    return tuple(divisors[-3:])
