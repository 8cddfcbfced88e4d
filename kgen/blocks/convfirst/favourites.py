"""The convfirst space as favourites are looked for in it: what is one step away from a config."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from kgen.blocks.configs import changed
from kgen.blocks.convfirst.config import ConvFirstConfig, PortableConfig
from kgen.blocks.convfirst.plan import plan
from kgen.blocks.convfirst.portable.geometry import in_strips
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.space import Choices, choices, draw, relax
from kgen.blocks.favourites import Space, single_changes
from kgen.blocks.favourites import favourites as favourites_of
from kgen.devices import Device

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


def neighbours(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Iterator[ConvFirstConfig | None]:
    """One field changed, or a whole tile, or warps with the chunk they share; made feasible where possible."""
    values = choices(problem, device)[config.boundary]
    changes = [*single_changes(config, values)]
    if isinstance(config, PortableConfig):
        changes += [*_tiles(problem, values), *_warps_and_chunks(config, values)]
    for change in changes:
        yield relax(problem, changed(config, change), device)


def _tiles(problem: ConvFirst, values: Choices) -> Iterator[dict[str, Any]]:
    for pixels in values["pixels"]:
        for tile_w in values["tile_w"]:
            tile_h = min(pixels // tile_w, problem.batch * problem.height)
            if 4 * tile_h * tile_w < 3 * pixels:
                continue
            for warps_m in values["warps_m"]:
                if pixels % (16 * warps_m) == 0 and pixels <= 64 * warps_m:
                    tile = {"pixels": pixels, "tile_w": tile_w, "tile_h": tile_h, "warps_m": warps_m}
                    strips = in_strips(problem, pixels, tile_h, tile_w, warps_m)
                    for reuse in ("none", "rows") if strips else ("none",):
                        for ctas in (1, 2):
                            yield {**tile, "conv_reuse": reuse, "ctas_per_sm": ctas}


def _warps_and_chunks(config: PortableConfig, values: Choices) -> Iterator[dict[str, Any]]:
    for warps_n in values["warps_n"] if config.boundary != "layers" else ():
        for blocks in (1, 2, 4):
            for split in values["hidden_split"]:
                yield {"warps_n": warps_n, "hidden_chunk": 16 * warps_n * blocks, "hidden_split": split}


favourites = partial(favourites_of, Space(plan, choices, draw, neighbours, _KIND))
"""The feasible configs of a problem on a device that the model predicts fastest: (problem, device, count)."""
