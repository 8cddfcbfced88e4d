"""The classifier problem: what a network ends with, the mean over each image's pixels and one linear layer.

y = mean(x) W + b.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from kgen.blocks.requirements import check_choice, check_positive
from kgen.errors import ProblemError
from kgen.tensors import Tensor

DType = Literal["float16", "bfloat16"]

MAX_CHANNELS = 1024
MAX_CLASSES = 65536


@dataclass(frozen=True)
class Classifier:
    """One classifier at one shape.

    ``x`` has shape (batch, height, width, channels) and ``y``, the logits, (batch, classes), both in ``dtype``.

    Raises:
        ProblemError: a field breaks its rule; the message names rule, value and next step.
    """

    batch: int
    height: int
    width: int
    channels: int
    classes: int = 1000
    dtype: DType = "float16"

    family: ClassVar[str] = "classifier"

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width", "channels", "classes"):
            check_positive(name, getattr(self, name))
        check_choice("dtype", self.dtype, get_args(DType))
        if self.channels % 16 or self.channels > MAX_CHANNELS:
            raise ProblemError(
                f"channels must be a multiple of 16 up to {MAX_CHANNELS}, but got channels={self.channels}; "
                f"use {min(-(-self.channels // 16) * 16, MAX_CHANNELS)}"
            )
        if self.classes > MAX_CLASSES:
            raise ProblemError(
                f"classes must be at most {MAX_CLASSES}, but got classes={self.classes}; use a linear layer beside it"
            )

    @property
    def x(self) -> Tensor:
        return Tensor((self.batch, self.height, self.width, self.channels), self.dtype)

    @property
    def y(self) -> Tensor:
        return Tensor((self.batch, 1, 1, self.classes), self.dtype, "nc")

    @property
    def pixels(self) -> int:
        """Of an image."""
        return self.height * self.width

    @property
    def sizes(self) -> tuple[float, ...]:
        """By whose ratios problems are near each other: channels, classes, pixels of an image, batch."""
        return (self.channels, self.classes, self.pixels, self.batch)

    @property
    def flops(self) -> int:
        """Operations: a sum of all pixels, and 2 per multiply-accumulate of the linear layer."""
        return self.batch * self.channels * (self.pixels + 2 * self.classes)

    @property
    def min_dram_bytes(self) -> int:
        """Least bytes to and from DRAM: x and weights read once, logits written once."""
        return self.x.bytes + 2 * self.channels * self.classes + 4 * self.classes + self.y.bytes

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return asdict(self)

    def __str__(self) -> str:
        shape = f"batch {self.batch}, {self.height}x{self.width}, {self.channels} channels, {self.classes} classes"
        return f"classifier({shape}, {self.dtype})"
