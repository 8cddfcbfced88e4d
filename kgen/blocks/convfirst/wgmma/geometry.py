"""Numbers that follow from a convfirst problem and a Hopper config: chunks, registers, and the shared-memory layouts.

They mirror the constexpr numbers of ``templates/convfirst_wgmma_*.cu.j2``, which assert that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.convfirst.config import WgmmaFusedConfig, WgmmaLayersConfig
from kgen.blocks.convfirst.problem import GROUP_WIDTH, ConvFirst
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div, pitch_bytes

CORE_BLOCK = 64
"""Pixels of a block of core matrices, the unit of tensors between the layers' kernels; channels are in multiples of
it."""
PRODUCER_REGISTERS = 32
_BARRIER_BYTES = 8
_STRIP_PITCH = pitch_bytes(32)


def entry_registers(warpgroups: int) -> int:
    """Registers of a thread as a kernel of ``warpgroups`` consumers and one of producers starts: a share, by eights."""
    return min(255, 65536 // (128 * (warpgroups + 1))) // 8 * 8


def consumer_registers(warpgroups: int) -> int:
    """Registers that setmaxnreg may give each thread of ``warpgroups`` consumers beside one warpgroup of producers.

    What the producers give up of the registers at entry goes to the consumers, in steps of 8.
    """
    pool = entry_registers(warpgroups) * (warpgroups + 1)
    return min(240, (pool - PRODUCER_REGISTERS) // warpgroups // 8 * 8)


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
        barriers = 1 + (2 + self.config.warpgroups) * self.config.x_slots + 2 * self.config.weight_slots
        return weights + self.config.weight_slots * chunk_bytes + barriers * _BARRIER_BYTES

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


@dataclass(frozen=True)
class MatmulGeometry:
    """One of the layers' matmuls: flat pixels, ``inputs`` to ``channels``."""

    name: str
    total_pixels: int
    inputs: int
    channels: int
    warpgroups: int
    outputs: int
    """Output channels of one work item."""
    stages: int
    deferred: bool
    cluster: int
    """CTAs that load weights for one another."""
    element_bytes: int
    """Of the operands: 1 for float8."""

    @property
    def last(self) -> bool:
        """Whether the output is the block's, through strips of shared memory to its plain layout."""
        return self.name == "project"

    @property
    def pixels(self) -> int:
        return 64 * self.warpgroups

    @property
    def threads(self) -> int:
        return 128 * (self.warpgroups + 1)

    @property
    def tiles(self) -> int:
        """Of pixels, as many for each CTA of a cluster: some may lie beyond the tensor."""
        return ceil_div(self.total_pixels, self.cluster * self.pixels) * self.cluster

    @property
    def items(self) -> int:
        return self.tiles * (self.channels // self.outputs)

    @property
    def step_bytes(self) -> int:
        """Of a pixel's or an output's inputs in a step: a block of core matrices has 64 columns of 2 bytes, or 32."""
        return 128 if self.inputs * self.element_bytes % 128 == 0 else 64

    @property
    def steps(self) -> int:
        return self.inputs * self.element_bytes // self.step_bytes

    @property
    def vectors(self) -> int:
        """Floats beside the weights for each output: bias, with float8 the sum's scale, and that of an operand made."""
        if self.element_bytes == 2:
            return 1
        return 2 if self.last else 3

    @property
    def accumulators(self) -> int:
        """Registers of a consumer's accumulators."""
        return self.outputs // 2 * (2 if self.deferred else 1)

    @property
    def slot_bytes(self) -> int:
        return self.step_bytes * (self.pixels + self.outputs)

    @property
    def loaded_bytes(self) -> int:
        """Of a slot, those that the CTA asks L2 for: the cluster's CTAs share out the weights."""
        return self.step_bytes * (self.pixels + self.outputs // self.cluster)

    @property
    def shared_bytes(self) -> int:
        strips = self.pixels * _STRIP_PITCH if self.last else 0
        vectors = 4 * self.vectors * self.channels
        return self.stages * self.slot_bytes + strips + vectors + (1 + 2 * self.stages) * _BARRIER_BYTES


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
