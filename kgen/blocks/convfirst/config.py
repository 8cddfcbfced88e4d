"""The convfirst config: one point of the search space, flat and JSON-shaped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Boundary = Literal["fused", "split", "layers"]
WeightResidency = Literal["resident", "streamed"]
Grid = Literal["persistent", "one_shot"]
ConvReuse = Literal["rows", "none"]
Operand = Literal["registers", "shared"]
Sigmoid = Literal["exp2", "tanh"]


@dataclass(frozen=True)
class ConvFirstConfig:
    """Everything tunable about the convfirst kernels; which configs are legal is the plan's business.

    A CTA of the first kernel owns ``pixels`` pixels, ``tile_h`` rows by ``tile_w`` columns, cut from the rows of
    all images stacked. Its warps form a ``warps_m`` x ``warps_n`` grid over pixels x channels.
    """

    boundary: Boundary
    """``fused``: one kernel. ``split``: conv + expand + activation, then project + residual in a second kernel.
    ``layers``: conv, expand + activation, project + residual, a kernel each."""
    tile_h: int
    tile_w: int
    pixels: int
    """Pixels per CTA that the tensor cores compute: tile_h * tile_w rounded up to whole 16-row fragments."""
    warps_m: int
    warps_n: int
    channel_chunk: int
    """Channels convolved per pipeline step."""
    hidden_chunk: int
    """Hidden channels per pipeline step."""
    out_split: int
    """CTAs over which one tile's output channels are split."""
    hidden_split: int
    """CTAs over which one tile's hidden channels are split (1 when fused)."""
    stages: int
    """Slots of the cp.async ring."""
    weights: WeightResidency
    """Expand and project weights: loaded once per CTA, or streamed through the ring for every tile."""
    grid: Grid
    conv_reuse: ConvReuse
    """``rows``: a loaded row serves its three vertical taps. ``none``: every tap is loaded."""
    conv_output: Operand
    """Where the expand matmul finds its A operand: fragments held in registers, or shared memory."""
    sigmoid: Sigmoid
    """How SiLU and tanh-GELU evaluate a sigmoid: two special-function operations, or one of lower precision."""
    ctas_per_sm: int
    """Occupancy asked of the compiler through __launch_bounds__."""
    project_pixels: int | None = None
    """Pointwise kernels beyond the fusion boundary (None when fused): pixels per CTA."""
    project_warps_m: int | None = None
    project_warps_n: int | None = None
    project_warps_k: int | None = None
    """Warp groups that split the sum over input channels and add their parts at the end."""
    project_chunk: int | None = None
    """Input channels per pipeline step."""
    project_stages: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return {name: getattr(self, name) for name in ConvFirstConfig.__dataclass_fields__}
