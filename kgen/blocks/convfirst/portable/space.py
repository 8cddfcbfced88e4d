"""The search space of the portable kernels: the values each field may take, and feasible configs drawn from it."""

from __future__ import annotations

import random
from typing import Any

from kgen.blocks.activations import SIGMOIDS
from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.portable.geometry import in_strips
from kgen.blocks.convfirst.portable.rules import RESOURCE_RULES, SHAPE_RULES
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.drawing import Picker, obeys, thriftier
from kgen.devices import Device

_PIXELS = (16, 32, 48, 64, 96, 112, 128, 192, 224, 256, 384, 448, 512)
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RELAXATIONS: tuple[dict[str, Any], ...] = (
    {"ctas_per_sm": 1},
    {"weights": "streamed"},
    {"conv_output": "shared"},
    {"stages": 2, "project_stages": 2},
    {"channel_chunk": 16, "project_warps_k": 1},
    {"project_chunk": 16},
)
"""Steps towards fewer resources, taken one after another."""

Choices = dict[str, tuple[Any, ...]]


def choices(problem: ConvFirst) -> dict[str, Choices]:
    """Values by side and field, without those that no config of this problem can use."""
    main, project = _main_choices(problem), _project_choices(problem)
    # One pointwise tile serves both matmuls, whose inputs are the channels and the hidden channels.
    both_chunks = tuple(chunk for chunk in project["project_chunk"] if problem.channels % chunk == 0)
    unused_by_layers: Choices = {"hidden_chunk": (16,), "weights": ("streamed",), "conv_output": ("shared",)}
    return {
        "fused": main | {"hidden_split": (1,)},
        "split": main | project,
        "layers": main | unused_by_layers | project | {"project_chunk": both_chunks},
    }


def _main_choices(problem: ConvFirst) -> Choices:
    channels, hidden = problem.channels, problem.hidden
    widths = _tile_widths(problem.width)
    return {
        "tile_h": tuple(sorted({p // w for p in _PIXELS for w in widths if p >= w})),
        "tile_w": widths,
        "pixels": _PIXELS,
        "warps_m": (1, 2, 3, 4, 6, 7, 8, 12, 14, 16),
        "warps_n": tuple(n for n in (1, 2, 3, 4, 6, 8) if hidden // 16 % n == 0),
        "channel_chunk": tuple(c for c in (16, 32, 48, 64, 96, 128, 256) if channels % c == 0),
        "hidden_chunk": tuple(c for c in (16, 32, 48, 64, 96, 128, 192, 256) if hidden % c == 0),
        "out_split": tuple(s for s in _SPLITS if channels // 16 % s == 0),
        "hidden_split": tuple(s for s in _SPLITS if hidden // 16 % s == 0),
        "stages": (2, 3, 4, 6),
        "weights": ("streamed", "resident"),
        "grid": ("persistent", "one_shot"),
        "conv_reuse": ("none", "rows"),
        "conv_output": ("registers", "shared"),
        "sigmoid": SIGMOIDS[problem.activation],
        "ctas_per_sm": (1, 2, 3, 4),
    }


def _project_choices(problem: ConvFirst) -> Choices:
    channels, hidden = problem.channels, problem.hidden
    return {
        "project_pixels": (16, 32, 48, 64, 96, 128, 192, 256),
        "project_warps_m": (1, 2, 3, 4, 6, 8),
        "project_warps_n": tuple(n for n in (1, 2, 3, 4, 6, 8) if channels // 16 % n == 0),
        "project_warps_k": (1, 2, 4, 8),
        "project_chunk": tuple(c for c in (16, 32, 64, 96, 128, 192, 256, 512) if hidden % c == 0),
        "project_stages": (2, 3, 4, 6),
    }


def _tile_widths(width: int) -> tuple[int, ...]:
    """Widths that divide the image, and whole runs of 8 columns, which row reuse needs."""
    divisors = {w for w in range(1, width + 1) if width % w == 0 and w >= min(width, 2)}
    eights = {w for w in (8, 16, 32) if w <= -(-width // 8) * 8}
    return tuple(sorted(w for w in divisors | eights if w <= max(_PIXELS)))


def default_config(problem: ConvFirst, device: Device) -> PortableConfig:
    """A config that is feasible for every legal problem on every device with 99 KB of shared memory a CTA."""
    tile_w = min(problem.width, 4 if problem.channels > 512 else 8)
    project_chunk = 32 if problem.hidden % 32 == 0 else 16
    pixels = 16 if problem.channels > 512 else 32
    return PortableConfig(
        boundary="split",
        tile_h=max(1, pixels // tile_w),
        tile_w=tile_w,
        pixels=pixels,
        warps_m=pixels // 16,
        warps_n=1,
        channel_chunk=16,
        hidden_chunk=16,
        out_split=_narrowest(problem.channels // 16, 4),
        hidden_split=_narrowest(problem.hidden // 16, 8),
        stages=2,
        weights="streamed",
        grid="one_shot",
        conv_reuse="none",
        conv_output="shared",
        sigmoid="exp2",
        ctas_per_sm=1,
        project_pixels=64,
        project_warps_m=4,
        project_warps_n=1,
        project_warps_k=1,
        project_chunk=project_chunk,
        project_stages=2,
    )


def _narrowest(blocks: int, at_most: int) -> int:
    """Smallest split that leaves at most ``at_most`` blocks to each part."""
    return next(s for s in range(1, blocks + 1) if blocks % s == 0 and blocks // s <= at_most)


def draw(problem: ConvFirst, side: str, values: Choices, rng: random.Random) -> PortableConfig:
    """A random config of a side, whose fields fit each other; it may break a resource rule."""
    picker = Picker(values, rng)
    fused, layers = side == "fused", side == "layers"
    pixels = picker.pick("pixels")
    tile_w = picker.pick("tile_w", lambda w: w <= pixels)
    tile_h = picker.picked["tile_h"] = min(pixels // tile_w, problem.batch * problem.height)
    warps_m = picker.pick("warps_m", lambda w: pixels % (16 * w) == 0 and pixels // w <= 64)
    strips = in_strips(problem, pixels, tile_h, tile_w, warps_m)
    picker.pick("conv_reuse", lambda reuse: reuse == "none" or strips)
    out_blocks = (
        problem.channels // 16 // picker.pick("out_split", lambda n: not fused or n == 1 or rng.random() < 0.05)
    )
    hidden_blocks = problem.hidden // 16 // picker.pick("hidden_split")
    warps_n = picker.pick("warps_n", lambda n: hidden_blocks % n == 0 and (not fused or out_blocks % n == 0))
    picker.pick("hidden_chunk", lambda c: c % (16 * warps_n) == 0 and hidden_blocks * 16 % c == 0 and c <= 64 * warps_n)
    if not fused:
        project_pixels = picker.pick("project_pixels")
        picker.pick("project_warps_m", lambda w: project_pixels % (16 * w) == 0 and project_pixels // w <= 64)
        picker.pick("project_warps_n", lambda n: out_blocks % n == 0 and (not layers or hidden_blocks % n == 0))
        warps_k = picker.pick("project_warps_k")
        picker.pick("project_chunk", lambda c: c % (16 * warps_k) == 0)
    return PortableConfig(**{"boundary": side, **picker.rest()})


def relax(problem: ConvFirst, config: PortableConfig, device: Device) -> PortableConfig | None:
    """The config, or the first of a fixed series of thriftier ones that is feasible, or None.

    The config's values are each legal on their own.
    """
    if not obeys(problem, config, device, SHAPE_RULES):
        return None
    relaxed: PortableConfig | None = thriftier(problem, config, device, RELAXATIONS, RESOURCE_RULES)
    return relaxed
