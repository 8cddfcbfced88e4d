"""Numbers that follow from a convfirst problem and config: blocks, steps, and the shared-memory layout.

They mirror the constexpr numbers of ``templates/convfirst.cu.j2``, which asserts that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.convfirst.config import ConvFirstConfig
from kgen.blocks.convfirst.problem import ConvFirst

CONV_PAIR_BYTES = 5 * 512
"""Packed conv weights of a pair of groups: five fragment blocks."""


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def pitch_bytes(elements: int) -> int:
    """Row pitch of a shared tile of 16-bit elements: an odd number of 16-byte units."""
    return elements * 2 + 16


@dataclass(frozen=True)
class MainGeometry:
    """The first kernel (conv, expand, activation; and project when fused)."""

    problem: ConvFirst
    config: ConvFirstConfig

    @property
    def fused(self) -> bool:
        return self.config.boundary == "fused"

    @property
    def warps(self) -> int:
        return self.config.warps_m * self.config.warps_n

    @property
    def m_tiles(self) -> int:
        return self.config.pixels // (16 * self.config.warps_m)

    @property
    def splits(self) -> int:
        return self.config.out_split if self.fused else self.config.hidden_split

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
    def conv_steps(self) -> int:
        return self.problem.channels // self.config.channel_chunk

    @property
    def hidden_per_item(self) -> int:
        return self.problem.hidden // self.config.hidden_split

    @property
    def hidden_steps(self) -> int:
        return self.hidden_per_item // self.config.hidden_chunk

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
        return not self.fused or self.config.warps_n > 1

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
        config, channels = self.config, self.problem.channels
        # Halo rows lie a multiple of 8 pixels plus tile_w apart, which keeps ldmatrix free of bank conflicts.
        halo_row = config.tile_w + (2 if config.tile_w % 8 == 0 else 8)
        conv_slot = ((config.tile_h + 2) * halo_row + 1) * pitch_bytes(config.channel_chunk)
        conv_slot += config.channel_chunk // 16 * CONV_PAIR_BYTES
        resident = config.weights == "resident"
        slot = max(conv_slot, 0 if resident else self.hidden_weight_bytes)
        total = config.stages * slot + config.pixels * pitch_bytes(channels)
        if self.hidden_in_shared:
            total += config.pixels * pitch_bytes(config.hidden_chunk)
        return total + (self.hidden_steps * self.hidden_weight_bytes if resident else 0)

    @property
    def accumulators(self) -> int:
        """Registers a thread holds at its fullest moment, without addresses and loop counters."""
        output = 8 * self.m_tiles * self.project_blocks
        held = 4 * self.m_tiles * self.problem.channels // 16 if self.config.conv_output == "registers" else 0
        expand = 2 * 8 * self.m_tiles * self.expand_blocks + 4 * self.m_tiles + 4  # this chunk and the one before
        rows = 4 * self.conv_loads if self.config.conv_reuse == "rows" else 4 * self.m_tiles
        conv = 20 + rows + 4 * self.m_tiles
        return output + self.conv_loads + max(held + expand, conv)


@dataclass(frozen=True)
class ProjectGeometry:
    """The second kernel of the split boundary: project and residual, a matmul over flat pixels."""

    problem: ConvFirst
    pixels: int
    warps_m: int
    warps_n: int
    warps_k: int
    chunk: int
    stages: int
    out_split: int

    @classmethod
    def of(cls, problem: ConvFirst, config: ConvFirstConfig) -> ProjectGeometry | None:
        """The geometry, or None where a project field is missing (as it is when fused)."""
        fields = (
            config.project_pixels,
            config.project_warps_m,
            config.project_warps_n,
            config.project_warps_k,
            config.project_chunk,
            config.project_stages,
        )
        numbers = [field for field in fields if field is not None]
        return cls(problem, *numbers, config.out_split) if len(numbers) == len(fields) else None

    @property
    def warps(self) -> int:
        return self.warps_m * self.warps_n * self.warps_k

    @property
    def m_tiles(self) -> int:
        return self.pixels // (16 * self.warps_m)

    @property
    def outputs(self) -> int:
        return self.problem.channels // self.out_split

    @property
    def blocks(self) -> int:
        """16-channel blocks of the output that one warp computes."""
        return self.outputs // 16 // self.warps_n

    @property
    def steps(self) -> int:
        return self.problem.hidden // self.chunk

    @property
    def items(self) -> int:
        return ceil_div(self.problem.pixels, self.pixels) * self.out_split

    @property
    def shared_bytes(self) -> int:
        slot = self.pixels * pitch_bytes(self.chunk) + 2 * self.chunk * self.outputs
        partial_sums = (self.warps_k - 1) * self.pixels * self.outputs * 4
        return self.stages * slot + self.pixels * pitch_bytes(self.outputs) + partial_sums

    @property
    def accumulators(self) -> int:
        return 8 * self.m_tiles * self.blocks + 4 * self.m_tiles + 4
