"""Patchconv configs: points of the search space, flat and JSON-shaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kgen.blocks.activations import Sigmoid
from kgen.blocks.configs import config_of, values_of


@dataclass(frozen=True)
class PortableConfig:
    """Everything tunable about the kernel that every GPU can run; which configs are legal is the plan's business.

    A work item is ``pixels`` of y times the outputs of one of ``out_split`` parts. The CTA's warps form a ``warps_m`` x
    ``warps_n`` x ``warps_k`` grid over pixels x outputs x inputs.
    """

    boundary: Literal["portable"]
    pixels: int
    warps_m: int
    warps_n: int
    warps_k: int
    """Warp groups that split the sum over inputs and add their parts at the end."""
    chunk: int
    """Inputs per pipeline step."""
    stages: int
    """Slots of the ring."""
    out_split: int
    """Work items over which the outputs of a tile of pixels are split."""
    sigmoid: Sigmoid
    ctas_per_sm: int
    """Occupancy asked of the compiler through __launch_bounds__."""

    template: ClassVar[str] = "patchconv.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


@dataclass(frozen=True)
class WgmmaConfig:
    """Everything tunable about the kernel for Hopper GPUs: a warpgroup that gathers patches, others that multiply."""

    boundary: Literal["wgmma"]
    warpgroups: int
    """Of 64 pixels of y each."""
    outputs: int
    """Of one work item."""
    stages: int
    """Slots of the ring, of 64 or 32 inputs."""
    deferred: bool
    """Whether a work item's results are stored while the next one is multiplied."""
    cluster: int
    """CTAs that load weights for one another."""
    sigmoid: Sigmoid

    template: ClassVar[str] = "patchconv_wgmma.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


PatchConvConfig = PortableConfig | WgmmaConfig
SIDES: Mapping[str, type[PortableConfig] | type[WgmmaConfig]] = {"portable": PortableConfig, "wgmma": WgmmaConfig}


def config_from_json(values: Mapping[str, Any]) -> PatchConvConfig:
    """The config that ``to_json`` gave. The values are the plan's to check.

    Raises:
        ProblemError: the side is unknown, or a field is unknown or missing.
    """
    config: PatchConvConfig = config_of("patchconv", SIDES, values)
    return config
