"""Pointwise layers of the portable kernels, ``templates/tile/pointwise.cuh``: sizes, rules, and what they move."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.layout import ceil_div, pitch_bytes
from kgen.blocks.requirements import divides, multiple, require
from kgen.blocks.resources import check_resources
from kgen.devices import Device
from kgen.machine import Stage


@dataclass(frozen=True)
class PointwiseGeometry:
    """A kernel that multiplies flat pixels by a matrix, ``inputs`` to ``channels``."""

    symbol: str
    total_pixels: int
    inputs: int
    channels: int
    split: int
    pixels: int
    warps_m: int
    warps_n: int
    warps_k: int
    chunk: int
    stages: int

    @property
    def warps(self) -> int:
        return self.warps_m * self.warps_n * self.warps_k

    @property
    def m_tiles(self) -> int:
        return self.pixels // (16 * self.warps_m)

    @property
    def outputs(self) -> int:
        """Output channels of one work item."""
        return self.channels // self.split

    @property
    def blocks(self) -> int:
        """16-channel blocks of the output that one warp computes."""
        return self.outputs // 16 // self.warps_n

    @property
    def steps(self) -> int:
        return self.inputs // self.chunk

    @property
    def items(self) -> int:
        return ceil_div(self.total_pixels, self.pixels) * self.split

    @property
    def shared_bytes(self) -> int:
        slot = self.pixels * pitch_bytes(self.chunk) + 2 * self.chunk * self.outputs
        partial_sums = (self.warps_k - 1) * self.pixels * self.outputs * 4
        return self.stages * slot + self.pixels * pitch_bytes(self.outputs) + partial_sums

    @property
    def accumulators(self) -> int:
        return 8 * self.m_tiles * self.blocks + 4 * self.m_tiles + 4


def check_pointwise_resources(prefix: str, kernel: PointwiseGeometry, device: Device) -> None:
    """Raise InfeasibleError unless an SM can run the kernel; ``prefix`` begins the names of its fields."""
    check_resources(prefix, kernel.warps, kernel.shared_bytes, kernel.accumulators, 1, device)


def check_pointwise_tile(prefix: str, kernel: PointwiseGeometry) -> None:
    """Raise InfeasibleError unless pixels and channels come in whole parts; ``prefix`` begins the fields' names."""
    check_pointwise_pixels(prefix, kernel.pixels, kernel.warps_m)
    check_pointwise_chunk(prefix, kernel.chunk, kernel.warps_k, kernel.inputs, kernel.symbol)
    check_pointwise_outputs(prefix, kernel.warps_n, kernel.outputs, kernel.symbol)


def check_pointwise_pixels(prefix: str, pixels: int, warps_m: int) -> None:
    """Raise InfeasibleError unless each of ``warps_m`` rows of warps has whole fragments of the pixels."""
    fragment = 16 * warps_m
    require(
        pixels % fragment == 0,
        f"{prefix}pixels",
        f"{prefix}pixels must be a multiple of 16 * {prefix}warps_m = {fragment}, but got {prefix}pixels={pixels}; "
        f"use {-(-pixels // fragment) * fragment}",
    )


def check_pointwise_chunk(prefix: str, chunk: int, warps_k: int, inputs: int, symbol: str) -> None:
    """Raise InfeasibleError unless the input channels come in chunks, and these in ``warps_k`` whole parts."""
    multiple(f"{prefix}chunk", chunk, 16 * warps_k)
    divides(f"{prefix}chunk", chunk, inputs, f"the input channels of {symbol}")


def check_pointwise_outputs(prefix: str, warps_n: int, outputs: int, symbol: str) -> None:
    """Raise InfeasibleError unless the output channels of a work item come in ``warps_n`` whole parts."""
    divides(f"{prefix}warps_n", warps_n, outputs // 16, f"the output blocks of one {symbol} CTA")


def pointwise_stages(name: str, layer: PointwiseGeometry, input_dram_bytes: int) -> tuple[Stage, Stage]:
    """Loading and multiplication; the input takes ``input_dram_bytes`` from DRAM, or 0 where L2 holds it."""
    weight_bytes, input_bytes = 2 * layer.inputs * layer.outputs, 2 * layer.pixels * layer.inputs
    loads = layer.items * (input_bytes + weight_bytes)
    load = Stage(
        "load input and weights",
        "load",
        dram_bytes=input_dram_bytes + 2 * layer.inputs * layer.channels,
        l2_bytes=loads,
        shared_bytes=loads,
    )
    matmul = Stage(
        name,
        "matmul",
        flops=2 * layer.total_pixels * layer.inputs * layer.channels,
        issued_flops=layer.items * 2 * layer.pixels * layer.inputs * layer.outputs,
        shared_bytes=layer.items * (layer.warps_n * input_bytes + layer.warps_m * weight_bytes),
    )
    return load, matmul
