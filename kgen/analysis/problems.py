"""The kernel sequences of blocks and networks: layer by layer, and block-fused.

Layer by layer every convolution is a kernel that reads its inputs from DRAM and writes its output there; activations
and the addition of the residual are fused into the convolution before them. Block-fused every block is one kernel. The
definitions are derived here from the blocks' own (:mod:`kgen.blocks`).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path

from kgen.analysis.kernels import Kernel, Sequence, merged
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.devices import Device
from kgen.networks.spec import Layer, LayerProblem, Network
from kgen.tuned import lookup

LAYERED, FUSED = "layer by layer", "block-fused"


def problem_sequences(problem: LayerProblem, device: Device, folder: Path | None = None) -> tuple[Sequence, Sequence]:
    """One block layer by layer and fused, the latter beside what its tuned config was measured at.

    Raises:
        TunedConfigError: a tuned-config file is corrupt.
    """
    return _sequences([Layer(problem.family, problem)], device, folder)


def network_sequences(
    network: Network, batch: int, size: int, device: Device, folder: Path | None = None
) -> tuple[Sequence, Sequence]:
    """A network for ``batch`` images of size x size pixels, layer by layer and block-fused; equal kernels are merged.

    Raises:
        ProblemError: the images are too small.
        TunedConfigError: a tuned-config file is corrupt.
    """
    return _sequences(network.layers(batch, size, size), device, folder)


def layered(problem: LayerProblem) -> tuple[Kernel, ...]:
    """The kernels of a block computed layer by layer, in order; their operations add up to the block's."""
    if isinstance(problem, ConvFirst):
        return _convfirst(problem)
    if isinstance(problem, Classifier):
        return _classifier(problem)
    return (replace(fused(problem), name="conv"),)


def fused(problem: LayerProblem, measured_us: float | None = None) -> Kernel:
    """A block as one kernel, which moves the problem's least bytes."""
    float8 = isinstance(problem, ConvFirst) and problem.matmul == "float8"
    float8_flops = sum(kernel.float8_flops for kernel in layered(problem)) if float8 else 0
    return Kernel("fused", problem.flops, problem.min_dram_bytes, float8_flops, measured_us=measured_us)


def _convfirst(problem: ConvFirst) -> tuple[Kernel, ...]:
    """Grouped convolution, expand with the activation, project with the residual, which reads x once more."""
    channels, hidden, float8 = problem.channels, problem.hidden, problem.matmul == "float8"
    taps = channels * GROUP_WIDTH * KERNEL_SIZE**2
    z_bytes, h_bytes = (problem.matmul_bytes * problem.pixels * count for count in (channels, hidden))
    matrix_bytes = problem.matmul_bytes * channels * hidden
    # Float32 values beside a matrix: biases, and with float8 the scales of its outputs, and of h.
    expand_values, project_values = (3 * hidden, 2 * channels) if float8 else (hidden, channels)
    matmul_flops = 2 * problem.pixels * channels * hidden
    residual_bytes = problem.x.bytes if problem.residual else 0
    return (
        Kernel("conv", 2 * problem.pixels * taps, problem.x.bytes + 2 * taps + 4 * channels + z_bytes),
        Kernel("expand", matmul_flops, z_bytes + matrix_bytes + 4 * expand_values + h_bytes, float8 * matmul_flops),
        Kernel(
            "project",
            matmul_flops,
            h_bytes + matrix_bytes + 4 * project_values + residual_bytes + problem.y.bytes,
            float8 * matmul_flops,
        ),
    )


def _classifier(problem: Classifier) -> tuple[Kernel, ...]:
    """The mean over pixels, written in storage precision, and the linear layer."""
    means = problem.batch * problem.channels
    pool = Kernel("pool", means * problem.pixels, problem.x.bytes + 2 * means)
    weights = 2 * problem.channels * problem.classes + 4 * problem.classes
    linear = Kernel("linear", 2 * means * problem.classes, 2 * means + weights + problem.y.bytes)
    return pool, linear


def _sequences(layers: Items[Layer], device: Device, folder: Path | None) -> tuple[Sequence, Sequence]:
    measured = {problem: _measured_us(problem, device, folder) for problem in {layer.problem for layer in layers}}
    parts = [replace(kernel, name=f"{one.name}.{kernel.name}") for one in layers for kernel in layered(one.problem)]
    wholes = [replace(fused(one.problem, measured[one.problem]), name=one.name) for one in layers]
    return Sequence(LAYERED, merged(parts), device), Sequence(FUSED, merged(wholes), device)


def _measured_us(problem: LayerProblem, device: Device, folder: Path | None) -> float | None:
    found = lookup(problem, device, folder)
    if found is None or not found.exact or found.stale or found.entry.measured is None:
        return None
    return found.entry.measured.median_us
