"""What the plans of all convfirst kernels count alike."""

from __future__ import annotations

from kgen.blocks.activations import Sigmoid, special_operations
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.machine import Stage, Unit

MMA_FLOPS = 2 * 16 * 8 * 16
"""Operations of an mma.m16n8k16."""
CONV_FRAGMENT_FLOPS = 5 * MMA_FLOPS
"""Operations executed to convolve 16 pixels of a group: five of these, of whose ten taps one is padding."""
CONV_A_BYTES = 5 * 512
"""What ldmatrix reads to convolve 16 pixels of a group tap by tap: five k16 steps."""


def conv_stage(problem: ConvFirst, fragments: int, shared_bytes: int, skipped: int = 0) -> Stage:
    """The convolution, executed on ``fragments`` of 16 pixels of a group, less ``skipped`` instructions."""
    return Stage(
        "grouped conv",
        "conv",
        flops=2 * problem.pixels * problem.channels * GROUP_WIDTH * KERNEL_SIZE**2,
        issued_flops=fragments * CONV_FRAGMENT_FLOPS - skipped * MMA_FLOPS,
        shared_bytes=shared_bytes,
    )


def matmul_stage(name: str, problem: ConvFirst, computed: int, shared_bytes: int, unit: Unit) -> Stage:
    """Expand or project, executed on ``computed`` pixels by the instructions of ``unit``."""
    flops = 2 * problem.channels * problem.hidden
    return Stage(
        name,
        "matmul",
        flops=problem.pixels * flops,
        issued_flops=computed * flops,
        shared_bytes=shared_bytes,
        unit=unit,
    )


def activate_stage(problem: ConvFirst, sigmoid: Sigmoid, computed: int) -> Stage:
    """The activation of the hidden channels of ``computed`` pixels."""
    return Stage(
        "activation", "activate", special=special_operations(problem.activation, sigmoid, computed * problem.hidden)
    )
