"""Classifier configs: points of the search space, flat and JSON-shaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kgen.blocks.configs import config_of, values_of

SIDE = "portable"


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything tunable about the kernel; which configs are legal is the plan's business.

    A CTA makes ``slice`` classes of ``images`` images. Its warps form a ``warps_n`` x ``warps_k`` grid over classes x
    channels.
    """

    boundary: Literal["portable"]
    images: int
    slice: int
    chunk: int
    """Classes per pipeline step."""
    warps_n: int
    warps_k: int
    """Warp groups that split the sum over channels and add their parts at the end."""
    parts: int
    """Parts in which an image's pixels are summed side by side."""
    stages: int
    """Slots of the ring of weights."""

    template: ClassVar[str] = "classifier.cu.j2"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return values_of(self)


def config_from_json(values: Mapping[str, Any]) -> ClassifierConfig:
    """The config that ``to_json`` gave. The values are the plan's to check.

    Raises:
        ProblemError: the side is unknown, or a field is unknown or missing.
    """
    config: ClassifierConfig = config_of("classifier", {SIDE: ClassifierConfig}, values)
    return config
