"""The rules a Hopper config of convfirst must obey; each failure names its rule, the values and the next step."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from kgen.blocks.activations import Sigmoid
from kgen.blocks.convfirst import config as options
from kgen.blocks.convfirst.config import WgmmaConfig, WgmmaFusedConfig, WgmmaLayersConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.requirements import storage_matmuls
from kgen.blocks.convfirst.wgmma.geometry import (
    FusedGeometry,
    conv_kernel,
    expand_kernel,
    project_kernel,
)
from kgen.blocks.pointwise_wgmma import (
    ARCH,
    CLUSTERS,
    CORE_BLOCK,
    MAX_COLUMNS,
    WARPGROUPS,
    check_columns,
    check_matmul,
    check_shared,
    consumer_registers,
    entry_registers,
)
from kgen.blocks.requirements import Rule, divides, multiple, one_of, positive, require
from kgen.devices import Device

CONV_CHANNELS = (16, 32, 64)
MAX_ROWS = 32
MAX_CONV_WARPS = 16
WARPGROUP_PIXELS = (64, 128)
_REGISTER_OVERHEAD = 20
"""Registers a consumer needs for addresses and counters at the least; what the compiler then spills, its log tells."""


_INSTRUCTION_OVERHEAD = 30
"""Registers beside the accumulators that one wgmma was seen to need at most (ptxas' C7602)."""


def check(problem: ConvFirst, config: WgmmaConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    _check_device(problem, config, device)
    _check_values(config)
    for rule in FUSED_RULES if isinstance(config, WgmmaFusedConfig) else LAYERS_RULES:
        rule(problem, config, device)


def _check_device(problem: ConvFirst, config: WgmmaConfig, device: Device) -> None:
    storage = problem.matmul == "storage"
    what, other = ("wgmma kernels", "a portable boundary") if storage else ("float8 matmuls", "matmul='storage'")
    require(
        device.arch == ARCH,
        "arch",
        f"{what} need a Hopper GPU ({ARCH}), but {device.name} is {device.arch}; use {other}",
    )


def _check_values(config: WgmmaConfig) -> None:
    values = config.to_json()
    for field in fields(config):
        name, value = field.name, values[field.name]
        if field.type == "int":
            positive(name, value)
        if field.type == "bool":
            require(type(value) is bool, name, f"{name} must be True or False, but got {name}={value!r}; pass a bool")
        if name.endswith("warpgroups"):
            require(
                value in WARPGROUPS,
                name,
                f"{name} must be one of {WARPGROUPS}, but got {name}={value}; an SM's registers feed three at most",
            )
        if name.endswith("cluster"):
            require(
                value in CLUSTERS, name, f"{name} must be one of {CLUSTERS}, but got {name}={value}; choose one of them"
            )
    one_of("sigmoid", config.sigmoid, get_args(Sigmoid))


def _check_fused(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> None:
    storage_matmuls(problem, config.boundary)
    require(
        problem.channels <= MAX_COLUMNS,
        "channels",
        f"the fused wgmma kernel has at most {MAX_COLUMNS} channels, one instruction's columns, but the problem has "
        f"{problem.channels}; use boundary='wgmma_layers'",
    )
    entry = entry_registers(config.warpgroups)
    require(
        problem.channels // 2 + _INSTRUCTION_OVERHEAD <= entry,
        "warpgroups",
        f"channels / 2 + {_INSTRUCTION_OVERHEAD} must be at most {entry}, the registers at a thread's start, which the "
        f"compiler holds wgmma to, but got {problem.channels} channels with {config.warpgroups} warpgroups; use fewer",
    )


def _check_conv_output(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> None:
    operands = get_args(options.Operand)
    require(
        config.conv_output in operands,
        "conv_output",
        f"conv_output must be one of {', '.join(operands)}, but got conv_output={config.conv_output!r}; choose one",
    )


def _check_chunks(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> None:
    kernel = FusedGeometry(problem, config)
    check_columns("hidden_chunk", config.hidden_chunk, 16)
    divides("hidden_chunk", config.hidden_chunk, problem.hidden, "hidden")
    require(
        kernel.chunks >= 2,
        "hidden_chunk",
        f"hidden_chunk must split the {problem.hidden} hidden channels at least in two, but got "
        f"hidden_chunk={config.hidden_chunk}; halve it",
    )
    require(
        2 <= config.weight_slots <= 2 * kernel.chunks,
        "weight_slots",
        f"weight_slots must be from 2 to {2 * kernel.chunks}, a slot for every chunk, but got "
        f"weight_slots={config.weight_slots}; use {min(4, 2 * kernel.chunks)}",
    )


def _check_fused_resources(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> None:
    kernel = FusedGeometry(problem, config)
    check_shared("", kernel.shared_bytes, device)
    needed, limit = kernel.accumulators + _REGISTER_OVERHEAD, consumer_registers(config.warpgroups)
    require(
        needed <= limit,
        "registers",
        f"a consumer thread has at most {limit} registers with {config.warpgroups} warpgroups, but the config needs "
        f"about {needed}; use smaller chunks or fewer warpgroups",
    )


def _check_reuse(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> None:
    pixels, reuses = config.warpgroup_pixels, get_args(options.ConvReuse)
    require(
        pixels in WARPGROUP_PIXELS and (pixels == 64 or config.conv_output == "registers"),
        "warpgroup_pixels",
        f"warpgroup_pixels must be one of {WARPGROUP_PIXELS}, and 64 unless conv_output='registers', but got "
        f"warpgroup_pixels={pixels} with conv_output={config.conv_output!r}; use 64",
    )
    require(
        config.conv_reuse in reuses,
        "conv_reuse",
        f"conv_reuse must be one of {', '.join(reuses)}, but got conv_reuse={config.conv_reuse!r}; choose one of them",
    )
    rows = 2 * FusedGeometry(problem, config).blocks
    require(
        config.conv_reuse == "none"
        or (problem.width % 8 == 0 and problem.height % rows == 0 and config.conv_output == "registers"),
        "conv_reuse",
        f"conv_reuse='rows' needs a width in multiples of 8, a height in multiples of {rows} and "
        f"conv_output='registers', but got width={problem.width}, height={problem.height}, "
        f"conv_output={config.conv_output!r}; use conv_reuse='none'",
    )


def _check_layers(problem: ConvFirst, config: WgmmaLayersConfig, device: Device) -> None:
    require(
        problem.channels % CORE_BLOCK == 0 and problem.hidden % CORE_BLOCK == 0,
        "channels",
        f"the layers' wgmma kernels need channels and hidden channels in multiples of {CORE_BLOCK}, but the problem "
        f"has {problem.channels} and {problem.hidden}; use another boundary",
    )


def _check_conv(problem: ConvFirst, config: WgmmaLayersConfig, device: Device) -> None:
    kernel = conv_kernel(problem, config)
    divides("conv_rows", kernel.rows, kernel.problem.height, "height")
    require(
        kernel.rows <= MAX_ROWS,
        "conv_rows",
        f"conv_rows must be at most {MAX_ROWS}, so that their loop can be unrolled, but got conv_rows={kernel.rows}; "
        "use a divisor of the height that is smaller",
    )
    require(
        kernel.images == 1 or kernel.rows == kernel.problem.height,
        "conv_images",
        f"conv_images must be 1 unless conv_rows is the height, {kernel.problem.height}, but got "
        f"conv_images={kernel.images} with conv_rows={kernel.rows}; use 1",
    )
    require(
        kernel.channels in CONV_CHANNELS,
        "conv_channels",
        f"conv_channels must be one of {CONV_CHANNELS}, but got conv_channels={kernel.channels}; choose one of them",
    )
    multiple("conv_warps", kernel.warps, kernel.groups)
    require(
        kernel.warps <= MAX_CONV_WARPS,
        "conv_warps",
        f"conv_warps must be at most {MAX_CONV_WARPS}, whose registers an SM has, but got conv_warps={kernel.warps}; "
        "use fewer",
    )
    require(
        kernel.stages >= 2,
        "conv_stages",
        f"conv_stages must be >= 2, one slot read while another fills, but got conv_stages={kernel.stages}; use 2",
    )
    check_shared("conv_", kernel.shared_bytes, device)


def _check_expand(problem: ConvFirst, config: WgmmaLayersConfig, device: Device) -> None:
    check_matmul(expand_kernel(problem, config), device)


def _check_project(problem: ConvFirst, config: WgmmaLayersConfig, device: Device) -> None:
    check_matmul(project_kernel(problem, config), device)


FUSED_RULES: tuple[Rule, ...] = (_check_fused, _check_conv_output, _check_reuse, _check_chunks, _check_fused_resources)
LAYERS_RULES: tuple[Rule, ...] = (_check_layers, _check_conv, _check_expand, _check_project)
"""What ties the fields of a config whose values are each legal on their own."""
