"""The plan of the Hopper kernels: problem + config + device become a tensor-machine program, or a rule's error."""

from __future__ import annotations

from kgen.blocks.convfirst.config import WgmmaConfig, WgmmaFusedConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.wgmma.fused import fused_parts
from kgen.blocks.convfirst.wgmma.layers import layers_parts
from kgen.blocks.convfirst.wgmma.rules import check
from kgen.devices import Device
from kgen.machine import Program
from kgen.tensors import TEMPLATE_TYPES


def plan(problem: ConvFirst, config: WgmmaConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    if isinstance(config, WgmmaFusedConfig):
        parts = fused_parts(problem, config, device)
    else:
        parts = layers_parts(problem, config, device)
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=f"{device.arch}a",
        template=config.template,
        fields={
            "storage": TEMPLATE_TYPES[problem.dtype],
            "operand": "e4m3" if problem.matmul == "float8" else TEMPLATE_TYPES[problem.dtype],
            "activation": problem.activation,
            "sigmoid": config.sigmoid,
        },
        constants={
            "CHANNELS": problem.channels,
            "HIDDEN": problem.hidden,
            "HEIGHT": problem.height,
            "WIDTH": problem.width,
            "RESIDUAL": problem.residual,
            **parts.constants,
        },
        kernels=parts.kernels,
        workspace_bytes=parts.workspace_bytes,
        tiles=parts.tiles,
        ragged=parts.ragged,
    )
