"""What a Hopper side's kernels contribute to a program, and the stages that both sides have."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.convfirst.config import Sigmoid
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.blocks.convfirst.stages import CONV_FRAGMENT_FLOPS, special_operations
from kgen.machine import KernelPlan, Stage

Constants = dict[str, int | bool]


@dataclass(frozen=True)
class Parts:
    """Constants of the template beyond the problem's, kernels in launch order, workspace, and a tile's pixels."""

    constants: Constants
    kernels: tuple[KernelPlan, ...]
    workspace_bytes: int
    tile_pixels: int


def conv_stage(problem: ConvFirst, fragments: int, shared_bytes: int) -> Stage:
    """The convolution, executed on ``fragments`` of 16 pixels of a group."""
    return Stage(
        "grouped conv",
        "conv",
        flops=2 * problem.pixels * problem.channels * GROUP_WIDTH * KERNEL_SIZE**2,
        issued_flops=fragments * CONV_FRAGMENT_FLOPS,
        shared_bytes=shared_bytes,
    )


def wgmma_stage(name: str, problem: ConvFirst, computed: int, shared_bytes: int) -> Stage:
    """Expand or project, executed on ``computed`` pixels by wgmma."""
    flops = 2 * problem.channels * problem.hidden
    return Stage(
        name,
        "matmul",
        flops=problem.pixels * flops,
        issued_flops=computed * flops,
        shared_bytes=shared_bytes,
        unit="wgmma",
    )


def activate_stage(problem: ConvFirst, sigmoid: Sigmoid, computed: int) -> Stage:
    """The activation of the hidden channels of ``computed`` pixels."""
    return Stage("activation", "activate", special=special_operations(problem, sigmoid, computed * problem.hidden))
