"""The plan of the Hopper kernels that compute a layer each."""

from __future__ import annotations

from collections.abc import Mapping

from kgen.blocks.convfirst.config import WgmmaLayersConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.stages import activate_stage, conv_stage, matmul_stage
from kgen.blocks.convfirst.wgmma.geometry import (
    ConvGeometry,
    conv_kernel,
    matmul_kernels,
)
from kgen.blocks.convfirst.wgmma.parts import Constants, Parts
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div
from kgen.blocks.pointwise_wgmma import CORE_BLOCK, PRODUCER_REGISTERS, MatmulGeometry, consumer_registers
from kgen.devices import Device
from kgen.machine import KernelPlan, Stage, Unit

_FRAGMENT_BYTES = 512
"""What an ldmatrix reads."""
_CONV_REGISTERS = 72
"""A thread of the convolution takes at most."""
_UNITS: Mapping[str, Unit] = {"storage": "wgmma", "float8": "wgmma_float8"}
"""What executes a problem's matmuls."""


def layers_parts(problem: ConvFirst, config: WgmmaLayersConfig, device: Device) -> Parts:
    """The three kernels of a legal config."""
    conv = conv_kernel(problem, config)
    matmuls = matmul_kernels(problem, config)
    constants: Constants = {
        "CONV_ROWS": conv.rows,
        "CONV_IMAGES": conv.images,
        "CONV_CHANNELS": conv.channels,
        "CONV_WARPS": conv.warps,
        "CONV_STAGES": conv.stages,
        "CONV_SHARED_BYTES": conv.shared_bytes,
    }
    for matmul in matmuls:
        name = matmul.name.upper()
        constants |= {
            f"{name}_WARPGROUPS": matmul.warpgroups,
            f"{name}_OUTPUTS": matmul.outputs,
            f"{name}_STAGES": matmul.stages,
            f"{name}_CLUSTER": matmul.cluster,
            f"{name}_DEFERRED": matmul.deferred,
            f"{name}_CONSUMER_REGISTERS": consumer_registers(matmul.warpgroups),
            f"{name}_PRODUCER_REGISTERS": PRODUCER_REGISTERS,
            f"{name}_SHARED_BYTES": matmul.shared_bytes,
        }
    blocks = ceil_div(problem.pixels, CORE_BLOCK)
    workspace = problem.matmul_bytes * blocks * CORE_BLOCK * (problem.channels + problem.hidden)
    in_dram = workspace > device.l2_bytes // 2  # else it stays in L2 between the kernels
    kernels = (
        _conv_kernel(conv, device, in_dram),
        *(_matmul_kernel(matmul, problem, config, device, in_dram) for matmul in matmuls),
    )
    tile_pixels = max(conv.pixels, *(matmul.pixels for matmul in matmuls))
    tiles = ceil_div(problem.pixels, tile_pixels)
    return Parts(constants, kernels, workspace, tiles, ragged=problem.pixels % tile_pixels > 0)


def _conv_kernel(conv: ConvGeometry, device: Device, in_dram: bool) -> KernelPlan:
    problem = conv.problem
    x_bytes = 2 * problem.pixels * problem.channels
    z_bytes = problem.matmul_bytes * problem.pixels * problem.channels
    items = conv.tiles * conv.chunks
    whole = conv.rows == problem.height
    loads = items * conv.images * (conv.rows + (0 if whole else 2)) * problem.width * 2 * conv.channels
    # Two strips of a group, down all rows: a row takes two fragments and five instructions. The slot's first row takes
    # one fragment more, and so do the rows above and below that come from the image; of an image's first and last row
    # an instruction is spared, as all of its taps are zeros.
    columns = items * conv.groups * conv.strip_pairs
    reads = columns * (2 * conv.rows + (1 if whole else 3)) * _FRAGMENT_BYTES
    skipped = 2 * columns if whole else 0
    ctas = max(
        1,
        min(
            device.shared_per_sm_bytes // (conv.shared_bytes + 1024),
            device.threads_per_sm // conv.threads,
            device.registers_per_sm // (_CONV_REGISTERS * conv.threads),
        ),
    )
    grid = conv.grid(ctas * device.sms)
    stages = (
        Stage(
            "load x and weights",
            "load",
            dram_bytes=x_bytes + problem.channels // 16 * CONV_PAIR_BYTES,
            l2_bytes=loads + grid * (conv.channels // 16 * CONV_PAIR_BYTES),  # to registers, once a CTA
            shared_bytes=loads,
        ),
        conv_stage(problem, columns * conv.rows, reads, skipped),
        Stage("store z", "store", dram_bytes=z_bytes if in_dram else 0, l2_bytes=z_bytes),
    )
    return KernelPlan(
        symbol="convfirst_wgmma_conv",
        stages=stages,
        grid=grid,
        threads=conv.threads,
        shared_bytes=conv.shared_bytes,
        work_items=items,
        steps=1,
        ctas_per_sm=ctas,
        accumulators=0,
        begins_early=True,
    )


def _matmul_kernel(
    matmul: MatmulGeometry, problem: ConvFirst, config: WgmmaLayersConfig, device: Device, in_dram: bool
) -> KernelPlan:
    size = problem.matmul_bytes
    weight_bytes = size * matmul.inputs * matmul.channels
    filled = matmul.items * matmul.steps * matmul.slot_bytes
    # Each warpgroup reads its pixels and all of the weights from its slot.
    reads = filled + matmul.items * (matmul.warpgroups - 1) * size * matmul.outputs * matmul.inputs
    load = Stage(
        "load input and weights",
        "load",
        dram_bytes=(size * problem.pixels * matmul.inputs if in_dram else 0) + weight_bytes,
        l2_bytes=matmul.items * matmul.steps * matmul.loaded_bytes,
        shared_bytes=filled,
    )
    return KernelPlan(
        symbol=f"convfirst_wgmma_{matmul.name}",
        stages=(
            load,
            matmul_stage(matmul.name, problem, matmul.tiles * matmul.pixels, reads, _UNITS[problem.matmul]),
            *_matmul_ends(matmul, problem, config, in_dram),
        ),
        grid=min(matmul.items, max(1, device.sms // matmul.cluster) * matmul.cluster),
        threads=matmul.threads,
        shared_bytes=matmul.shared_bytes,
        work_items=matmul.items,
        steps=matmul.steps,
        ctas_per_sm=1,
        accumulators=matmul.accumulators,
        begins_early=True,
        cluster=matmul.cluster,
    )


def _matmul_ends(
    matmul: MatmulGeometry, problem: ConvFirst, config: WgmmaLayersConfig, in_dram: bool
) -> tuple[Stage, ...]:
    """What follows a matmul: activation and the hidden tensor, or residual and y."""
    out_bytes = (2 if matmul.last else problem.matmul_bytes) * problem.pixels * matmul.channels
    if not matmul.last:
        store = Stage("store hidden", "store", dram_bytes=out_bytes if in_dram else 0, l2_bytes=out_bytes)
        return (activate_stage(problem, config.sigmoid, problem.pixels), store)
    read = out_bytes if problem.residual else 0
    name = "residual and store y" if problem.residual else "store y"
    return (Stage(name, "store", dram_bytes=out_bytes + read, l2_bytes=out_bytes + read),)
