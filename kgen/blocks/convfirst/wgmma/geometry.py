"""Numbers that follow from a convfirst problem and a Hopper config: chunks, registers, and the shared-memory layouts.

They mirror the constexpr numbers of ``templates/convfirst_wgmma_*.cu.j2``, which assert that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.convfirst.config import WgmmaFusedConfig, WgmmaLayersConfig
from kgen.blocks.convfirst.problem import GROUP_WIDTH, ConvFirst
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div, pitch_bytes
from kgen.blocks.pointwise_wgmma import BARRIER_BYTES, MatmulGeometry


@dataclass(frozen=True)
class FusedGeometry:
    """The fused kernel."""

    problem: ConvFirst
    config: WgmmaFusedConfig

    @property
    def pixels(self) -> int:
        return self.config.warpgroup_pixels * self.config.warpgroups

    @property
    def blocks(self) -> int:
        """Of 64 pixels, an instruction's, that a warpgroup has of a tile; a warp has 16 of each."""
        return self.config.warpgroup_pixels // 64

    @property
    def threads(self) -> int:
        return 128 * (self.config.warpgroups + 1)

    @property
    def by_rows(self) -> bool:
        return self.config.conv_reuse == "rows"

    @property
    def tiles(self) -> int:
        return ceil_div(self.problem.pixels, self.pixels)

    @property
    def work_items(self) -> int:
        """Tiles, as many for each CTA of a cluster: some may lie beyond the tensor."""
        return ceil_div(self.tiles, self.config.cluster) * self.config.cluster

    @property
    def chunks(self) -> int:
        return self.problem.hidden // self.config.hidden_chunk

    @property
    def resident(self) -> bool:
        return self.config.weight_slots == 2 * self.chunks

    @property
    def z_in_shared(self) -> bool:
        return self.config.conv_output == "shared"

    @property
    def tile_bytes(self) -> int:
        """Of a slot for the pixels of a tile and its halo."""
        return ceil_div(self.halo_pixels * pitch_bytes(self.problem.channels), 128) * 128

    @property
    def halo_pixels(self) -> int:
        if self.by_rows:
            return (self.pixels // 8 + 2) * (8 + 2)
        return self.pixels + 2 * (self.problem.width + 1)

    @property
    def conv_row_bytes(self) -> int:
        """Of ldmatrix, for all of a warp's pixels of a group: rows of 8 pixels, by column of taps, or of every tap."""
        rows = 3 * (2 * self.blocks + 2) if self.by_rows else 20 * self.blocks
        return 128 * rows

    @property
    def conv_bytes(self) -> int:
        return self.problem.channels // 16 * CONV_PAIR_BYTES

    @property
    def bias_bytes(self) -> int:
        return 4 * (2 * self.problem.channels + self.problem.hidden)

    @property
    def shared_bytes(self) -> int:
        before = self.config.x_slots * self.tile_bytes + pitch_bytes(self.problem.channels)
        weights = ceil_div(before + self.conv_bytes + self.bias_bytes, 128) * 128
        chunk_bytes = 2 * self.config.hidden_chunk * self.problem.channels
        readers = self.config.warpgroups if self.z_in_shared else 1
        barriers = 1 + (1 + self.config.warpgroups + readers) * self.config.x_slots + 2 * self.config.weight_slots
        return weights + self.config.weight_slots * chunk_bytes + barriers * BARRIER_BYTES

    @property
    def accumulators(self) -> int:
        """Registers that a consumer holds at its fullest moment, without addresses and loop counters."""
        channels, chunk = self.problem.channels, self.config.hidden_chunk
        operands = chunk // 4 * (2 if self.config.overlap else 1)
        z = 0 if self.z_in_shared else self.blocks * channels // 4
        return z + channels // 2 + chunk // 2 + operands


@dataclass(frozen=True)
class ConvGeometry:
    """The layers' first kernel: a warp convolves pairs of strips, 8 pixels wide, of one group of channels."""

    problem: ConvFirst
    rows: int
    images: int
    channels: int
    warps: int
    stages: int

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def pixels(self) -> int:
        return self.images * self.rows * self.problem.width

    @property
    def tiles(self) -> int:
        if self.rows == self.problem.height:
            return ceil_div(self.problem.batch, self.images)
        return self.problem.batch * (self.problem.height // self.rows)

    @property
    def chunks(self) -> int:
        return self.problem.channels // self.channels

    @property
    def groups(self) -> int:
        """Of a chunk of channels."""
        return self.channels // GROUP_WIDTH

    @property
    def strip_pairs(self) -> int:
        """Of a tile."""
        return ceil_div(self.images * ceil_div(self.problem.width, 8), 2)

    @property
    def slot_bytes(self) -> int:
        rows = self.images * (self.rows + 1) * (self.problem.width + 1)
        return (rows + 8 * ceil_div(self.problem.width, 8) + 2) * pitch_bytes(self.channels)

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.slot_bytes

    def grid(self, ctas: int) -> int:
        """Persistent CTAs, of ``ctas`` that fit the device at once: each keeps one chunk of channels, all alike."""
        per_chunk = max(1, ctas // self.chunks)
        return self.chunks * ceil_div(self.tiles, ceil_div(self.tiles, per_chunk))


def conv_kernel(problem: ConvFirst, config: WgmmaLayersConfig) -> ConvGeometry:
    """The layers' convolution."""
    tile = (config.conv_rows, config.conv_images, config.conv_channels)
    return ConvGeometry(problem, *tile, config.conv_warps, config.conv_stages)


def matmul_kernels(problem: ConvFirst, config: WgmmaLayersConfig) -> tuple[MatmulGeometry, MatmulGeometry]:
    """Expand and project, in launch order."""
    return expand_kernel(problem, config), project_kernel(problem, config)


def expand_kernel(problem: ConvFirst, config: WgmmaLayersConfig) -> MatmulGeometry:
    """The layers' first matmul."""
    return MatmulGeometry(
        name="expand",
        last=False,
        total_pixels=problem.pixels,
        inputs=problem.channels,
        channels=problem.hidden,
        warpgroups=config.expand_warpgroups,
        outputs=config.expand_outputs,
        stages=config.expand_stages,
        deferred=config.expand_deferred,
        cluster=config.expand_cluster,
        element_bytes=problem.matmul_bytes,
    )


def project_kernel(problem: ConvFirst, config: WgmmaLayersConfig) -> MatmulGeometry:
    """The layers' second matmul."""
    return MatmulGeometry(
        name="project",
        last=True,
        total_pixels=problem.pixels,
        inputs=problem.hidden,
        channels=problem.channels,
        warpgroups=config.project_warpgroups,
        outputs=config.project_outputs,
        stages=config.project_stages,
        deferred=config.project_deferred,
        cluster=config.project_cluster,
        element_bytes=problem.matmul_bytes,
    )
