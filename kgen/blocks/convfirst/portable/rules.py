"""The rules a convfirst config must obey; each failure names its rule, the values and the next step."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from kgen.blocks.activations import Sigmoid
from kgen.blocks.convfirst import config as options
from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.portable.geometry import EXPAND, PROJECT, MainGeometry, in_strips, pointwise_kernels
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.requirements import storage_matmuls
from kgen.blocks.pointwise import (
    check_pointwise_chunk,
    check_pointwise_outputs,
    check_pointwise_pixels,
    check_pointwise_resources,
)
from kgen.blocks.requirements import Rule, divides, multiple, one_of, positive, require
from kgen.blocks.resources import check_registers, check_shared, check_threads
from kgen.devices import Device

_CHOICES = {
    "boundary": get_args(options.Boundary),
    "weights": get_args(options.WeightResidency),
    "grid": get_args(options.Grid),
    "conv_reuse": get_args(options.ConvReuse),
    "conv_output": get_args(options.Operand),
    "sigmoid": get_args(Sigmoid),
}
_PROJECT_FIELDS = sorted(field.name for field in fields(PortableConfig) if field.name.startswith("project_"))


def check(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    _check_values(config)
    _check_split(config)
    for rule in (*SHAPE_RULES, *RESOURCE_RULES):
        rule(problem, config, device)


def _check_values(config: PortableConfig) -> None:
    for name, value in config.to_json().items():
        if name in _CHOICES:
            one_of(name, value, _CHOICES[name])
        elif value is not None:
            positive(name, value)
    require(
        config.stages >= 2 and (config.project_stages or 2) >= 2,
        "stages",
        f"stages must be >= 2, one slot read while another fills, but got stages={config.stages}, "
        f"project_stages={config.project_stages}; use 2, 3 or 4",
    )


def _check_matmuls(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    storage_matmuls(problem, config.boundary)


def _check_pixels(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    fragment = 16 * config.warps_m
    require(
        config.pixels % fragment == 0,
        "pixels",
        f"pixels must be a multiple of 16 * warps_m = {fragment}, but got pixels={config.pixels}; "
        f"use {-(-config.pixels // fragment) * fragment}",
    )


def _check_tile(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    area = config.tile_h * config.tile_w
    require(
        area <= config.pixels,
        "tile",
        f"tile_h * tile_w must be at most pixels={config.pixels}, but got {config.tile_h} * {config.tile_w} = {area}; "
        "shrink the tile or raise pixels",
    )
    require(
        config.tile_w <= -(-problem.width // 8) * 8,
        "tile_w",
        f"tile_w must be at most the width {problem.width} rounded up to 8, but got tile_w={config.tile_w}; "
        f"use {problem.width}",
    )


def _check_reuse(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    if config.conv_reuse == "rows":
        strip = 2 * MainGeometry(problem, config).m_tiles
        require(
            in_strips(problem, config.pixels, config.tile_h, config.tile_w, config.warps_m),
            "conv_reuse",
            f"conv_reuse='rows' needs strips of 8 columns x {strip} rows that tile the images: tile_w a multiple of 8, "
            f"tile_h and height multiples of {strip}, and tile_h * tile_w = pixels, but got height={problem.height}, "
            f"tile_h={config.tile_h}, tile_w={config.tile_w}, pixels={config.pixels}; use conv_reuse='none'",
        )


def _check_channels(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    multiple("channel_chunk", config.channel_chunk, 16)
    divides("channel_chunk", config.channel_chunk, problem.channels, "channels")


def _check_hidden(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    main = MainGeometry(problem, config)
    divides("hidden_split", config.hidden_split, problem.hidden // 16, "hidden / 16")
    if not main.conv_only:
        multiple("hidden_chunk", config.hidden_chunk, 16 * config.warps_n)
        divides("hidden_chunk", config.hidden_chunk, main.hidden_per_item, "hidden / hidden_split")


def _check_outputs(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    divides("out_split", config.out_split, problem.channels // 16, "channels / 16")
    if config.boundary == "fused":
        divides("warps_n", config.warps_n, problem.channels // config.out_split // 16, "output blocks of one CTA")


def _check_split(config: PortableConfig) -> None:
    fused = config.boundary == "fused"
    missing = [name for name in _PROJECT_FIELDS if (getattr(config, name) is None) != fused]
    require(
        not missing,
        "boundary",
        f"the project_* fields must be {'None when fused' if fused else 'set unless fused'}, but "
        f"{', '.join(missing)} {'is not' if fused else 'is None'}; {'clear' if fused else 'set'} them",
    )
    require(
        not fused or config.hidden_split == 1,
        "hidden_split",
        f"hidden_split must be 1 when fused, but got hidden_split={config.hidden_split}; use another boundary",
    )
    unused = {"hidden_chunk": 16, "weights": "streamed", "conv_output": "shared"}
    for name, value in unused.items() if config.boundary == "layers" else ():
        require(
            getattr(config, name) == value,
            name,
            f"{name} must be {value!r} when boundary='layers', which has no use for it, but got "
            f"{name}={getattr(config, name)!r}; set it so",
        )


def _check_project_pixels(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    if config.project_pixels is not None and config.project_warps_m is not None:
        check_pointwise_pixels("project_", config.project_pixels, config.project_warps_m)


def _check_project_chunk(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    chunk, warps_k = config.project_chunk, config.project_warps_k
    if chunk is not None and warps_k is not None:
        if config.boundary == "layers":
            check_pointwise_chunk("project_", chunk, warps_k, problem.channels, EXPAND)
        check_pointwise_chunk("project_", chunk, warps_k, problem.hidden, PROJECT)


def _check_project_outputs(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    if config.project_warps_n is not None:
        if config.boundary == "layers":
            hidden = problem.hidden // config.hidden_split
            check_pointwise_outputs("project_", config.project_warps_n, hidden, EXPAND)
        check_pointwise_outputs("project_", config.project_warps_n, problem.channels // config.out_split, PROJECT)


def _check_project_resources(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    for kernel in pointwise_kernels(problem, config):
        check_pointwise_resources("project_", kernel, device)


def _check_threads(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    check_threads("", MainGeometry(problem, config).warps)


def _check_registers(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    main = MainGeometry(problem, config)
    check_registers("", main.warps, main.accumulators, config.ctas_per_sm, device)


def _check_shared(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    main = MainGeometry(problem, config)
    check_shared("", main.warps, main.shared_bytes, config.ctas_per_sm, device)


def _check_z_alone(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    """What the conv gives fits, were there nothing else and but one warp."""
    check_shared("", 1, MainGeometry(problem, config).z_bytes, config.ctas_per_sm, device)


def _check_resident_alone(problem: ConvFirst, config: PortableConfig, device: Device) -> None:
    """Resident weights fit, were there nothing else."""
    check_shared("", 1, MainGeometry(problem, config).resident_bytes, 1, device)


SHAPE_RULES: tuple[Rule, ...] = (
    _check_matmuls,
    _check_pixels,
    _check_tile,
    _check_reuse,
    _check_hidden,
    _check_outputs,
    _check_threads,
    _check_project_pixels,
    _check_project_outputs,
)
"""Of how the work is cut up; a step towards fewer resources changes none of the fields that they read."""
RESOURCE_RULES: tuple[Rule, ...] = (
    _check_channels,
    _check_shared,
    _check_registers,
    _check_project_chunk,
    _check_project_resources,
)
IMPLIED_RULES: tuple[Rule, ...] = (_check_z_alone, _check_resident_alone)
"""What follows from the others, but takes few fields: it leaves a search fewer combinations to check."""
RULES = (*SHAPE_RULES, *RESOURCE_RULES, *IMPLIED_RULES)
"""What ties the fields of a config whose values are each legal on their own."""
