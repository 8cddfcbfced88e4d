"""A network as data: an image classifier of ConvFirst blocks, and the problems that its layers are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from kgen.blocks.activations import Activation
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.convfirst.problem import ConvFirst, DType
from kgen.blocks.patchconv.problem import Order, PatchConv, Pixels
from kgen.blocks.requirements import check_positive
from kgen.errors import ProblemError

LayerProblem = PatchConv | ConvFirst | Classifier

STEM = "stem"
_DOWNSAMPLING = 2


@dataclass(frozen=True)
class Layer:
    """One layer of a network at one shape; its ``y`` is the next layer's ``x``."""

    name: str
    problem: LayerProblem


@dataclass(frozen=True)
class Network:
    """Stem, stages of ConvFirst blocks, global average pooling and a linear head.

    The stem convolves patches of ``patch`` x ``patch`` pixels; stage i has ``depths[i]`` blocks of ``widths[i]``
    channels, and behind the first stage begins by halving height and width. Images have ``image_channels`` channels, in
    ``dtype`` or, with ``pixels`` ``uint8``, from 0 to 255; ``order`` is that of their memory. Neither stem nor
    downsampling has an activation.

    Raises:
        ProblemError: a field breaks a rule of its own or of a layer; the message names it.
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    expansion: float = 4
    activation: Activation = "silu"
    image_channels: int = 3
    classes: int = 1000
    patch: int = 4
    dtype: DType = "float16"
    pixels: Pixels = "storage"
    order: Order = "nhwc"

    def __post_init__(self) -> None:
        if not (isinstance(self.widths, tuple) and isinstance(self.depths, tuple)):
            raise ProblemError(
                f"widths and depths must be tuples, but got {self.widths!r} and {self.depths!r}; convert them"
            )
        if not self.widths or len(self.widths) != len(self.depths):
            raise ProblemError(
                f"widths and depths must have one value per stage, but got {len(self.widths)} and {len(self.depths)} "
                "values; pass equally many, at least one"
            )
        for name in ("widths", "depths"):
            for i, value in enumerate(getattr(self, name)):
                check_positive(f"{name}[{i}]", value)
        check_positive("patch", self.patch)
        self.smallest_layers()

    @property
    def least_size(self) -> int:
        """Height and width, in pixels, of the smallest images: those that leave one pixel to the last stage."""
        return self.patch * prod([_DOWNSAMPLING] * (len(self.widths) - 1))

    def smallest_layers(self) -> tuple[Layer, ...]:
        """The layers for one smallest image, for whatever does not depend on the shape, as weights do not."""
        return self.layers(1, self.least_size, self.least_size)

    def layers(self, batch: int, height: int, width: int) -> tuple[Layer, ...]:
        """The layers in the order in which they run, for images of height x width pixels.

        They are ``stem``, ``stages.{i}.downsample`` (not of stage 0), ``stages.{i}.blocks.{j}`` and ``head``. Rows and
        columns that fill no patch are left out, by the stem and by every downsampling.

        Raises:
            ProblemError: the images are too small.
        """
        for name, value in (("batch", batch), ("height", height), ("width", width)):
            check_positive(name, value)
        if min(height, width) < self.least_size:
            raise ProblemError(
                f"images must be at least {self.least_size}x{self.least_size}, a pixel for the last of "
                f"{len(self.widths)} stages of {self.name}, but got {height}x{width}; use larger images"
            )
        return tuple(self._layers(batch, height, width))

    def _layers(self, batch: int, height: int, width: int) -> Iterator[Layer]:
        name = STEM
        try:
            problem: LayerProblem = PatchConv(
                *(batch, height, width, self.image_channels, self.widths[0], self.patch),
                dtype=self.dtype,
                pixels=self.pixels,
                order=self.order,
            )
            yield Layer(name, problem)
            for i, (channels, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
                if i:
                    name = f"stages.{i}.downsample"
                    problem = PatchConv(*problem.y.shape, outputs=channels, patch=_DOWNSAMPLING, dtype=self.dtype)
                    yield Layer(name, problem)
                shape = problem.y.shape
                for j in range(depth):
                    name = f"stages.{i}.blocks.{j}"
                    problem = ConvFirst(*shape, self.expansion, self.activation, self.dtype)
                    yield Layer(name, problem)
            name = "head"
            yield Layer(name, Classifier(*problem.y.shape, self.classes, self.dtype))
        except ProblemError as error:
            raise ProblemError(f"layer {name} of {self.name} must be legal, but {error}") from error
