"""Convfirst configs: points of the search space, flat and JSON-shaped.

The field ``boundary`` says which *side* a config is on: how the block is cut into kernels, and of which kind they are.
Each side has a class of configs with the fields that its kernels need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from kgen.blocks.activations import Sigmoid
from kgen.blocks.configs import config_of, values_of

Boundary = Literal["fused", "split", "layers"]
WeightResidency = Literal["resident", "streamed"]
Grid = Literal["persistent", "one_shot"]
ConvReuse = Literal["rows", "none"]
Operand = Literal["registers", "shared"]


@dataclass(frozen=True)
class PortableConfig:
    """Everything tunable about the kernels that run on every device; which configs are legal is the plan's business.

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
    """How SiLU and GELU are computed: to float rounding, or with one special-function operation of lower precision."""
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

    template: ClassVar[str] = "convfirst.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


@dataclass(frozen=True)
class WgmmaFusedConfig:
    """Everything tunable about the fused kernel for Hopper.

    A CTA has ``warpgroups`` that compute, and one that loads.
    """

    boundary: Literal["wgmma_fused"]
    warpgroups: int
    hidden_chunk: int
    """Hidden channels expanded, activated and projected at a time."""
    weight_slots: int
    """Slots for chunks of the expand and project weights; with one for every chunk they stay for the kernel's life."""
    x_slots: int
    """Slots for pixel tiles."""
    overlap: bool
    """Whether a warpgroup activates a chunk while its tensor cores project the one before."""
    conv_reuse: ConvReuse
    """``rows``: tiles are strips 8 pixels wide, whose loaded rows serve all vertical taps. ``none``: tiles are runs
    of pixels, and every tap is loaded."""
    conv_output: Operand
    """Where the expand matmul finds its A operand: fragments held in registers, or shared memory."""
    sigmoid: Sigmoid
    cluster: int = 1
    """CTAs that work on neighbouring tiles at a time, and load weights for one another."""
    warpgroup_pixels: int = 64
    """Pixels that a warpgroup convolves at a time; it then multiplies 64 after another."""

    template: ClassVar[str] = "convfirst_wgmma_fused.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


@dataclass(frozen=True)
class WgmmaLayersConfig:
    """Everything tunable about the three kernels for Hopper: conv, expand + activation, project + residual.

    A matmul's CTA has ``warpgroups`` that compute 64 pixels x ``outputs`` channels each, and one that loads.
    """

    boundary: Literal["wgmma_layers"]
    conv_rows: int
    """Rows of an image that a tile of the convolution has."""
    conv_images: int
    """Images that a tile has, all of whose rows it then has."""
    conv_channels: int
    conv_warps: int
    conv_stages: int
    """Slots for tiles."""
    expand_warpgroups: int
    expand_outputs: int
    expand_stages: int
    """Slots for 64 input channels of pixels and weights."""
    expand_deferred: bool
    """Whether a warpgroup stores an item's outputs while its tensor cores multiply the next one's."""
    project_warpgroups: int
    project_outputs: int
    project_stages: int
    project_deferred: bool
    sigmoid: Sigmoid
    expand_cluster: int = 1
    """CTAs of a cluster, which work on neighbouring pixels and load weights for one another."""
    project_cluster: int = 1

    template: ClassVar[str] = "convfirst_wgmma_layers.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


@dataclass(frozen=True)
class ClusterConfig:
    """Everything tunable about the kernels for few pixels, in which a cluster of CTAs shares a tile."""

    boundary: Literal["cluster"]
    cluster: int
    """CTAs of a cluster, each of which makes a slice of the channels of z, h and y."""
    pixels: int
    """Pixels of a tile."""
    hidden_split: int
    """Clusters over which one tile's hidden channels are split; if several, a second kernel adds their sums."""
    warps: int
    expand_warps_k: int
    """Warp groups that split a matmul's sum over input channels."""
    project_warps_k: int
    sigmoid: Sigmoid

    template: ClassVar[str] = "convfirst_cluster.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


WgmmaConfig = WgmmaFusedConfig | WgmmaLayersConfig
ConvFirstConfig = PortableConfig | ClusterConfig | WgmmaConfig

SIDES: Mapping[str, type[ConvFirstConfig]] = {
    **dict.fromkeys(get_args(Boundary), PortableConfig),
    "cluster": ClusterConfig,
    "wgmma_fused": WgmmaFusedConfig,
    "wgmma_layers": WgmmaLayersConfig,
}
"""The config class of each side."""


def config_from_json(values: Mapping[str, Any]) -> ConvFirstConfig:
    """The config that ``to_json`` gave; fields with a default may be left out. The values are the plan's to check.

    Raises:
        ProblemError: the side is unknown, or a field of it is unknown or missing.
    """
    config: ConvFirstConfig = config_of("convfirst", SIDES, values)
    return config
