"""Numbers that follow from a convfirst problem and config: blocks, steps, and the shared-memory layout.

They mirror the constexpr numbers of ``templates/convfirst.cu.j2``, which asserts that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div, pitch_bytes
from kgen.blocks.pointwise import PointwiseGeometry

EXPAND, PROJECT = "convfirst_expand", "convfirst_project"
"""Symbols of the pointwise kernels."""


@dataclass(frozen=True)
class MainGeometry:
    """The first kernel: conv; expand and activation unless they are a layer of their own; project when fused."""

    problem: ConvFirst
    config: PortableConfig

    @property
    def fused(self) -> bool:
        return self.config.boundary == "fused"

    @property
    def conv_only(self) -> bool:
        return self.config.boundary == "layers"

    @property
    def symbol(self) -> str:
        return {"fused": "convfirst_fused", "split": "convfirst_conv_expand", "layers": "convfirst_conv"}[
            self.config.boundary
        ]

    @property
    def warps(self) -> int:
        return self.config.warps_m * self.config.warps_n

    @property
    def m_tiles(self) -> int:
        return self.config.pixels // (16 * self.config.warps_m)

    @property
    def splits(self) -> int:
        """Work items of one tile: parts of its output or hidden channels, or the channel chunks of a lone conv."""
        return {"fused": self.config.out_split, "split": self.config.hidden_split, "layers": self.conv_chunks}[
            self.config.boundary
        ]

    @property
    def tiles(self) -> int:
        rows = self.problem.batch * self.problem.height
        return ceil_div(rows, self.config.tile_h) * ceil_div(self.problem.width, self.config.tile_w)

    @property
    def items(self) -> int:
        return self.tiles * self.splits

    @property
    def halo_pixels(self) -> int:
        return (self.config.tile_h + 2) * (self.config.tile_w + 2)

    @property
    def conv_chunks(self) -> int:
        return self.problem.channels // self.config.channel_chunk

    @property
    def conv_steps(self) -> int:
        """Pipeline steps of one work item that convolve a channel chunk."""
        return 1 if self.conv_only else self.conv_chunks

    @property
    def channels_per_item(self) -> int:
        """Channels that one work item convolves."""
        return self.config.channel_chunk if self.conv_only else self.problem.channels

    @property
    def hidden_per_item(self) -> int:
        return self.problem.hidden // self.config.hidden_split

    @property
    def hidden_steps(self) -> int:
        return 0 if self.conv_only else self.hidden_per_item // self.config.hidden_chunk

    @property
    def outputs_per_item(self) -> int:
        return self.problem.channels // self.config.out_split if self.fused else 0

    @property
    def expand_blocks(self) -> int:
        """16-channel blocks of the hidden chunk that one warp computes."""
        return self.config.hidden_chunk // 16 // self.config.warps_n

    @property
    def project_blocks(self) -> int:
        """16-channel blocks of the output that one warp computes."""
        return self.outputs_per_item // 16 // self.config.warps_n

    @property
    def hidden_in_shared(self) -> bool:
        return self.config.boundary == "split" or (self.fused and self.config.warps_n > 1)

    @property
    def hidden_weight_bytes(self) -> int:
        """Expand and project weights that one hidden chunk needs."""
        return 2 * self.config.hidden_chunk * (self.problem.channels + self.outputs_per_item)

    @property
    def conv_loads(self) -> int:
        """ldmatrix.x4 instructions of a warp for one group of its pixels."""
        if self.config.conv_reuse == "none":
            return 5 * self.m_tiles
        return ceil_div(3 * (2 * self.m_tiles + 2), 4)

    @property
    def shared_bytes(self) -> int:
        config = self.config
        # Halo rows lie a multiple of 8 pixels plus tile_w apart, which keeps ldmatrix free of bank conflicts.
        halo_row = config.tile_w + (2 if config.tile_w % 8 == 0 else 8)
        conv_slot = ((config.tile_h + 2) * halo_row + 1) * pitch_bytes(config.channel_chunk)
        conv_slot += config.channel_chunk // 16 * CONV_PAIR_BYTES
        streamed = config.weights == "streamed" and not self.conv_only
        slot = max(conv_slot, self.hidden_weight_bytes if streamed else 0)
        total = config.stages * slot + self.z_bytes + self.resident_bytes
        if self.hidden_in_shared:
            total += config.pixels * pitch_bytes(config.hidden_chunk)
        return total

    @property
    def z_bytes(self) -> int:
        """Of shared memory for what the conv gives of a tile."""
        return self.config.pixels * pitch_bytes(self.channels_per_item)

    @property
    def resident_bytes(self) -> int:
        """Of shared memory for weights that stay there."""
        return self.hidden_steps * self.hidden_weight_bytes if self.config.weights == "resident" else 0

    @property
    def accumulators(self) -> int:
        """Registers a thread holds at its fullest moment, without addresses and loop counters."""
        output = 8 * self.m_tiles * self.project_blocks
        held = 4 * self.m_tiles * self.problem.channels // 16 if self.config.conv_output == "registers" else 0
        chunks = 2 * 8 * self.m_tiles * self.expand_blocks  # this one and the one before
        operands = 2 * (4 * self.expand_blocks + (0 if held else 4 * self.m_tiles))
        pairs = 2 if self.config.channel_chunk // 16 % (2 * self.config.warps_n) == 0 else 1
        rows = 4 * self.conv_loads if self.config.conv_reuse == "rows" else 4 * self.m_tiles
        conv = pairs * (20 + 2 * rows + 8 * self.m_tiles) + self.conv_loads + output // 2
        return conv if self.conv_only else max(output + held + chunks + operands, conv)


def in_strips(problem: ConvFirst, pixels: int, tile_h: int, tile_w: int, warps_m: int) -> bool:
    """Whether tiles and images are whole strips, 8 pixels wide, of a warp's rows, which conv_reuse='rows' needs."""
    rows = 2 * (pixels // (16 * warps_m))
    return tile_w % 8 == 0 and tile_h % rows == 0 and problem.height % rows == 0 and tile_h * tile_w == pixels


def pointwise_kernels(problem: ConvFirst, config: PortableConfig) -> tuple[PointwiseGeometry, ...]:
    """The pointwise kernels of a config, in launch order: none when fused, project when split, or expand and project.

    The ``project_*`` fields serve both; a config in which one is missing has none.
    """
    tile = (
        config.project_pixels,
        config.project_warps_m,
        config.project_warps_n,
        config.project_warps_k,
        config.project_chunk,
        config.project_stages,
    )
    sizes = [size for size in tile if size is not None]
    if config.boundary == "fused" or len(sizes) < len(tile):
        return ()
    pixels, channels, hidden = problem.pixels, problem.channels, problem.hidden
    project = PointwiseGeometry(PROJECT, pixels, hidden, channels, config.out_split, *sizes)
    if config.boundary == "split":
        return (project,)
    return (PointwiseGeometry(EXPAND, pixels, channels, hidden, config.hidden_split, *sizes), project)
