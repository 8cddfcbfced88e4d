"""Numbers that follow from a convfirst problem and a cluster config: slices, and the shared-memory layout.

They mirror the constexpr numbers of ``templates/convfirst_cluster.cu.j2`` and ``templates/tile/partial_matmul.cuh``;
the former asserts that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from kgen.blocks.convfirst.config import ClusterConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div, pitch_bytes

_WEIGHT_BARRIERS = 4


@dataclass(frozen=True)
class PartialMatmul:
    """One CTA's matmul: pixels x inputs to pixels x outputs, shared out over warps and summed in shared memory."""

    pixels: int
    inputs: int
    outputs: int
    warps: int
    warps_k: int

    @property
    def m_tiles(self) -> int:
        return ceil_div(self.pixels, 16)

    @property
    def warps_m(self) -> int:
        return gcd(self.warps // self.warps_k // self.warps_n, self.m_tiles)

    @property
    def warps_n(self) -> int:
        return gcd(self.warps // self.warps_k, self.outputs // 8)

    @property
    def partial_bytes(self) -> int:
        """Of all groups' partial sums."""
        return self.warps_k * self.pixels * (self.outputs // 16 * 2 + 1) * 32

    @property
    def shared_bytes(self) -> int:
        """What the warps read and write there: operands, and partial sums twice."""
        operands = 2 * self.inputs * (self.warps_n * 16 * self.m_tiles + self.warps_m * self.outputs)
        return operands + 2 * self.partial_bytes

    @property
    def accumulators(self) -> int:
        """Registers of a thread's accumulators, in two sets, and of the operands of two steps."""
        m, n = self.m_tiles // self.warps_m, self.outputs // 8 // self.warps_n
        return 8 * m * n + 2 * (8 * m + 4 * n)


@dataclass(frozen=True)
class ClusterGeometry:
    """The kernel that makes y, or, with the hidden channels split over clusters, parts of it."""

    problem: ConvFirst
    config: ClusterConfig
    shared_limit: int
    """Bytes of shared memory that a CTA may have."""

    @property
    def threads(self) -> int:
        return 32 * self.config.warps

    @property
    def tiles(self) -> int:
        return ceil_div(self.problem.pixels, self.config.pixels)

    @property
    def clusters(self) -> int:
        return self.tiles * self.config.hidden_split

    @property
    def ctas(self) -> int:
        return self.clusters * self.config.cluster

    @property
    def slice_channels(self) -> int:
        """Channels of z and of y that a CTA makes."""
        return self.problem.channels // self.config.cluster

    @property
    def part_hidden(self) -> int:
        """Hidden channels of a cluster."""
        return self.problem.hidden // self.config.hidden_split

    @property
    def slice_hidden(self) -> int:
        """Hidden channels of a CTA."""
        return self.part_hidden // self.config.cluster

    @property
    def halo_pixels(self) -> int:
        return self.config.pixels + 2 * (self.problem.width + 1)

    @property
    def expand(self) -> PartialMatmul:
        config = self.config
        return PartialMatmul(
            config.pixels, self.problem.channels, self.slice_hidden, config.warps, config.expand_warps_k
        )

    @property
    def project(self) -> PartialMatmul:
        config = self.config
        return PartialMatmul(config.pixels, self.part_hidden, self.slice_channels, config.warps, config.project_warps_k)

    @property
    def conv_bytes(self) -> int:
        """Conv weights of a CTA."""
        return self.slice_channels // 16 * CONV_PAIR_BYTES

    @property
    def weight_bytes(self) -> int:
        """Expand and project weights of a CTA."""
        return 2 * (self.slice_hidden * self.problem.channels + self.part_hidden * self.slice_channels)

    @property
    def bias_bytes(self) -> int:
        return 4 * (2 * self.slice_channels + self.slice_hidden)

    @property
    def early(self) -> int:
        """Slices of h whose project weights find room from the start; the others' take that of the expand weights."""
        room = self.shared_limit - self._shared_bytes(0)
        return max(0, min(self.config.cluster, room // self._turn_bytes))

    @property
    def shared_bytes(self) -> int:
        return self._shared_bytes(self.early)

    @property
    def _turn_bytes(self) -> int:
        """Project weights of one slice of h."""
        return 2 * self.slice_hidden * self.slice_channels

    def _shared_bytes(self, early: int) -> int:
        cluster, expand_bytes = self.config.cluster, 2 * self.slice_hidden * self.problem.channels
        conv = (self.halo_pixels + 1) * pitch_bytes(self.slice_channels) + self.conv_bytes
        h = cluster * self.config.pixels * pitch_bytes(self.slice_hidden)
        z = cluster * self.config.pixels * pitch_bytes(self.slice_channels)
        partial = max(self.expand.partial_bytes, self.project.partial_bytes)
        barriers = 8 * (_WEIGHT_BARRIERS + 2 * (cluster - 1))
        return max(conv, h) + z + expand_bytes + early * self._turn_bytes + partial + self.bias_bytes + barriers
