"""The plan of the patchconv kernel that every GPU can run, and the rules of its configs."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from kgen.blocks.activations import Sigmoid, special_operations
from kgen.blocks.patchconv.config import PortableConfig
from kgen.blocks.patchconv.problem import PatchConv
from kgen.blocks.patchconv.weights import padded_inputs
from kgen.blocks.pointwise import PointwiseGeometry, check_pointwise_resources, check_pointwise_tile, pointwise_stages
from kgen.blocks.requirements import Rule, check_side, divides, one_of, positive, require
from kgen.blocks.resources import check_resources, ctas_per_sm
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage
from kgen.tensors import TEMPLATE_TYPES


def plan(problem: PatchConv, config: PortableConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    layer = _geometry(problem, config)
    tiles = layer.items // config.out_split
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=device.arch,
        template=config.template,
        fields={
            "storage": TEMPLATE_TYPES[problem.dtype],
            "pixel": TEMPLATE_TYPES[problem.x.dtype],
            "activation": problem.activation,
            "sigmoid": config.sigmoid,
        },
        constants=_constants(problem, config, layer),
        kernels=(_kernel(problem, config, layer, device),),
        workspace_bytes=0,
        tiles=tiles,
        ragged=tiles * config.pixels > problem.patches,
    )


def check(problem: PatchConv, config: PortableConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    check_side(config.boundary, "portable")
    for name, value in config.to_json().items():
        if name not in ("boundary", "sigmoid"):
            positive(name, value)
    one_of("sigmoid", config.sigmoid, get_args(Sigmoid))
    require(
        config.stages >= 2,
        "stages",
        f"stages must be >= 2, one slot read while another fills, but got stages={config.stages}; use 2, 3 or 4",
    )
    for rule in RULES:
        rule(problem, config, device)


def _check_outputs(problem: PatchConv, config: PortableConfig, device: Device) -> None:
    divides("out_split", config.out_split, problem.outputs // 16, "outputs / 16")


def _check_layer(problem: PatchConv, config: PortableConfig, device: Device) -> None:
    check_pointwise_tile("", _geometry(problem, config))


def _check_resources(problem: PatchConv, config: PortableConfig, device: Device) -> None:
    layer = _geometry(problem, config)
    check_pointwise_resources("", layer, device)
    check_resources("", layer.warps, layer.shared_bytes, layer.accumulators, config.ctas_per_sm, device)


RULES: tuple[Rule, ...] = (_check_outputs, _check_layer, _check_resources)
"""What ties the fields of a config whose values are each legal on their own."""


def _geometry(problem: PatchConv, config: PortableConfig) -> PointwiseGeometry:
    return PointwiseGeometry(
        symbol="patchconv",
        total_pixels=problem.patches,
        inputs=padded_inputs(problem),
        channels=problem.outputs,
        split=config.out_split,
        pixels=config.pixels,
        warps_m=config.warps_m,
        warps_n=config.warps_n,
        warps_k=config.warps_k,
        chunk=config.chunk,
        stages=config.stages,
    )


def _constants(problem: PatchConv, config: PortableConfig, layer: PointwiseGeometry) -> dict[str, int | bool]:
    return {
        "PATCH": problem.patch,
        "HEIGHT": problem.height,
        "WIDTH": problem.width,
        "CHANNELS": problem.channels,
        "IMAGE": problem.image,
        "PLANES": problem.order == "nchw",
        "INPUTS": layer.inputs,
        "OUTPUTS": problem.outputs,
        "RESIDUAL": problem.residual,
        "OUT_SPLIT": config.out_split,
        "PIXELS": config.pixels,
        "WARPS_M": config.warps_m,
        "WARPS_N": config.warps_n,
        "WARPS_K": config.warps_k,
        "THREADS": 32 * layer.warps,
        "CTAS_PER_SM": config.ctas_per_sm,
        "CHUNK": config.chunk,
        "STAGES": config.stages,
        "SHARED_BYTES": layer.shared_bytes,
    }


def _kernel(problem: PatchConv, config: PortableConfig, layer: PointwiseGeometry, device: Device) -> KernelPlan:
    ctas = min(config.ctas_per_sm, ctas_per_sm(layer.shared_bytes, 32 * layer.warps, device))
    used_bytes = problem.patches * problem.inputs * problem.x.storage.itemsize
    load, matmul = pointwise_stages("matmul", layer, used_bytes)
    outputs = layer.items * layer.pixels * layer.outputs
    y_bytes = problem.y.bytes
    return KernelPlan(
        symbol="patchconv",
        stages=(
            load,
            replace(matmul, flops=problem.flops),
            Stage("activation", "activate", special=special_operations(problem.activation, config.sigmoid, outputs)),
            Stage(
                "residual and store y" if problem.residual else "store y",
                "store",
                dram_bytes=y_bytes,  # the residual is in L2, which the load left there
                l2_bytes=y_bytes * (2 if problem.residual else 1),
                shared_bytes=4 * outputs,
            ),
        ),
        grid=min(layer.items, device.sms * ctas),
        threads=32 * layer.warps,
        shared_bytes=layer.shared_bytes,
        work_items=layer.items,
        steps=layer.steps,
        ctas_per_sm=ctas,
        accumulators=layer.accumulators,
    )
