"""The plan of the patchconv kernel for Hopper GPUs, and the rules of its configs."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from kgen.blocks.activations import Sigmoid, special_operations
from kgen.blocks.patchconv.config import WgmmaConfig
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.pointwise_wgmma import (
    ARCH,
    CLUSTERS,
    PRODUCER_REGISTERS,
    WARPGROUPS,
    MatmulGeometry,
    check_matmul,
    consumer_registers,
)
from kgen.blocks.requirements import Rule, check_side, positive, require
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage
from kgen.tensors import TEMPLATE_TYPES

PRODUCER_WARPS = 4
"""Warps that gather patches, a step at a time each."""
STEP, STRIP = 64, 32
"""Inputs must be a multiple of a step, 128 bytes of a patch, and outputs of the channels that are stored at a time."""


class _Geometry(MatmulGeometry):
    @property
    def shared_bytes(self) -> int:
        """With a table of each producing warp's: where a tile's patches begin, from a multiple of 16 bytes on."""
        return -(-super().shared_bytes // 16) * 16 + PRODUCER_WARPS * 4 * self.pixels


def suits(problem: PatchConv, device: Device) -> bool:
    """Whether the kernel can compute the problem on the device."""
    return device.arch == ARCH and not problem.image and problem.inputs % STEP == 0 and problem.outputs % STRIP == 0


def plan(problem: PatchConv, config: WgmmaConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    layer = _geometry(problem, config)
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=f"{device.arch}a",
        template=config.template,
        fields={
            "storage": TEMPLATE_TYPES[problem.dtype],
            "activation": problem.activation,
            "sigmoid": config.sigmoid,
        },
        constants=_constants(problem, layer),
        kernels=(_kernel(problem, config, layer, device),),
        workspace_bytes=0,
        tiles=layer.tiles,
        ragged=layer.tiles * layer.pixels > problem.patches,
    )


def check(problem: PatchConv, config: WgmmaConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    check_side(config.boundary, "wgmma")
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if field.type == "int":
            positive(name, value)
    require(
        type(config.deferred) is bool,
        "deferred",
        f"deferred must be True or False, but got deferred={config.deferred!r}; pass a bool",
    )
    for name, options in (("warpgroups", WARPGROUPS), ("cluster", CLUSTERS), ("sigmoid", get_args(Sigmoid))):
        value = getattr(config, name)
        require(
            value in options, name, f"{name} must be one of {options}, but got {name}={value!r}; choose one of them"
        )
    for rule in RULES:
        rule(problem, config, device)


def _check_problem(problem: PatchConv, config: WgmmaConfig, device: Device) -> None:
    require(
        suits(problem, device),
        "boundary",
        f"the wgmma kernel needs a Hopper GPU ({ARCH}), whole channels, inputs in multiples of {STEP} and outputs "
        f"of {STRIP}, but {device.name} is {device.arch}, with {problem.inputs} inputs and {problem.outputs} outputs "
        f"of {'an image' if problem.image else 'a layer'}; use boundary='portable'",
    )


def _check_layer(problem: PatchConv, config: WgmmaConfig, device: Device) -> None:
    check_matmul(_geometry(problem, config), device)


RULES: tuple[Rule, ...] = (_check_problem, _check_layer)
"""What ties the fields of a config whose values are each legal on their own."""


def _geometry(problem: PatchConv, config: WgmmaConfig) -> _Geometry:
    return _Geometry(
        name="",
        last=True,
        total_pixels=problem.patches,
        inputs=problem.inputs,
        channels=problem.outputs,
        warpgroups=config.warpgroups,
        outputs=config.outputs,
        stages=config.stages,
        deferred=config.deferred,
        cluster=config.cluster,
        element_bytes=2,
    )


def _constants(problem: PatchConv, layer: _Geometry) -> dict[str, int | bool]:
    return {
        "PATCH": problem.patch,
        "HEIGHT": problem.height,
        "WIDTH": problem.width,
        "CHANNELS": problem.channels,
        "INPUTS": problem.inputs,
        "CHANNELS_OUT": problem.outputs,
        "RESIDUAL": problem.residual,
        "WARPGROUPS": layer.warpgroups,
        "OUTPUTS": layer.outputs,
        "STAGES": layer.stages,
        "DEFERRED": layer.deferred,
        "CLUSTER": layer.cluster,
        "CONSUMER_REGISTERS": consumer_registers(layer.warpgroups),
        "PRODUCER_REGISTERS": PRODUCER_REGISTERS,
        "THREADS": layer.threads,
        "SHARED_BYTES": layer.shared_bytes,
    }


def _kernel(problem: PatchConv, config: WgmmaConfig, layer: _Geometry, device: Device) -> KernelPlan:
    weight_bytes, outputs = 2 * layer.inputs * layer.channels, layer.tiles * layer.pixels * layer.channels
    filled = layer.items * layer.steps * layer.slot_bytes
    return KernelPlan(
        symbol="patchconv_wgmma",
        stages=(
            Stage(
                "load input and weights",
                "load",
                dram_bytes=2 * problem.patches * layer.inputs + weight_bytes,
                l2_bytes=layer.items * layer.steps * layer.loaded_bytes,
                shared_bytes=filled,
            ),
            Stage(
                "matmul",
                "matmul",
                flops=problem.flops,
                issued_flops=layer.tiles * layer.pixels * 2 * layer.inputs * layer.channels,
                # Each warpgroup reads its pixels and all of the weights from its slot.
                shared_bytes=filled + layer.items * (layer.warpgroups - 1) * 2 * layer.outputs * layer.inputs,
                unit="wgmma",
            ),
            Stage("activation", "activate", special=special_operations(problem.activation, config.sigmoid, outputs)),
            Stage(
                "residual and store y" if problem.residual else "store y",
                "store",
                dram_bytes=problem.y.bytes,  # the residual is in L2, which the load left there
                l2_bytes=problem.y.bytes * (2 if problem.residual else 1),
            ),
        ),
        grid=min(layer.items, max(1, device.sms // layer.cluster) * layer.cluster),
        threads=layer.threads,
        shared_bytes=layer.shared_bytes,
        work_items=layer.items,
        steps=layer.steps,
        ctas_per_sm=1,
        accumulators=layer.accumulators,
        begins_early=True,
        cluster=layer.cluster,
    )
