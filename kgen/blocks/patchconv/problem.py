"""The patchconv problem: a convolution whose stride is its kernel size, so that patches do not overlap.

y = act(conv(x) + b) (+ x), a matmul of every patch with one matrix. It is what networks begin with (4x4 patches of an
image), what lies between their stages (2x2), and with 1x1 patches a linear layer. BatchNorm, and for images the
normalisation by mean and standard deviation, are folded into weights and biases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from kgen.blocks.activations import Activation
from kgen.blocks.requirements import check_choice, check_positive
from kgen.errors import ProblemError
from kgen.tensors import Tensor

DType = Literal["float16", "bfloat16"]
Pixels = Literal["storage", "uint8"]
Order = Literal["nhwc", "nchw"]

PATCHES = (1, 2, 4)
IMAGE_CHANNELS = 4
"""Up to so many channels x is an image, which may be uint8 or in planes."""
MAX_CHANNELS = 4096


@dataclass(frozen=True)
class PatchConv:
    """One patch convolution at one shape.

    ``x`` has shape (batch, height, width, channels) and ``y`` (batch, height // patch, width // patch, outputs), in
    ``dtype``; rows and columns of x that fill no patch are left out. An image, which has at most 4 channels, may be of
    ``pixels`` ``uint8`` from 0 to 255, and in planes, ``order`` ``nchw``.

    Raises:
        ProblemError: a field breaks its rule; the message names rule, value and next step.
    """

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    patch: int = 2
    activation: Activation = "identity"
    dtype: DType = "float16"
    residual: bool = False
    pixels: Pixels = "storage"
    order: Order = "nhwc"

    family: ClassVar[str] = "patchconv"

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width", "channels", "outputs"):
            check_positive(name, getattr(self, name))
        check_choice("patch", self.patch, PATCHES)
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("dtype", self.dtype, get_args(DType))
        check_choice("pixels", self.pixels, get_args(Pixels))
        check_choice("order", self.order, get_args(Order))
        if min(self.height, self.width) < self.patch:
            raise ProblemError(
                f"height and width must be at least patch={self.patch}, but got {self.height}x{self.width}; "
                "use larger images or smaller patches"
            )
        self._check_channels()
        if not isinstance(self.residual, bool) or (self.residual and (self.patch, self.outputs) != (1, self.channels)):
            raise ProblemError(
                f"residual must be True or False, and needs patch=1 and as many outputs as channels, but got "
                f"residual={self.residual!r}, patch={self.patch}, channels={self.channels}, outputs={self.outputs}; "
                "use residual=False"
            )

    def _check_channels(self) -> None:
        for name, least in (("channels", IMAGE_CHANNELS), ("outputs", 0)):
            value = getattr(self, name)
            if value > least and (value % 16 or value > MAX_CHANNELS):
                also = f"at most {least} (an image's) or " if least else ""
                raise ProblemError(
                    f"{name} must be {also}a multiple of 16 up to {MAX_CHANNELS}, but got {name}={value}; "
                    f"use {min(-(-value // 16) * 16, MAX_CHANNELS)}"
                )
        if not self.image and (self.pixels, self.order) != ("storage", "nhwc"):
            raise ProblemError(
                f"pixels must be 'storage' and order 'nhwc' for more than {IMAGE_CHANNELS} channels, but got "
                f"pixels={self.pixels!r}, order={self.order!r} with channels={self.channels}; convert x first"
            )

    @property
    def image(self) -> bool:
        """Whether x is an image, of few channels."""
        return self.channels <= IMAGE_CHANNELS

    @property
    def x(self) -> Tensor:
        shape = (self.batch, self.height, self.width, self.channels)
        return Tensor(shape, "uint8" if self.pixels == "uint8" else self.dtype, self.order)

    @property
    def y(self) -> Tensor:
        return Tensor((self.batch, self.height // self.patch, self.width // self.patch, self.outputs), self.dtype)

    @property
    def patches(self) -> int:
        """Pixels of y in the whole batch."""
        return self.batch * (self.height // self.patch) * (self.width // self.patch)

    @property
    def inputs(self) -> int:
        """Numbers of a patch, whose order in the matrix is x's."""
        return self.patch * self.patch * self.channels

    @property
    def sizes(self) -> tuple[float, ...]:
        """By whose ratios problems are near each other: inputs, outputs, patches of an image, batch."""
        return (self.inputs, self.outputs, self.patches // self.batch, self.batch)

    @property
    def flops(self) -> int:
        """Operations, 2 per multiply-accumulate."""
        return 2 * self.patches * self.inputs * self.outputs

    @property
    def min_dram_bytes(self) -> int:
        """Least bytes to and from DRAM: patches and weights read once, y written once."""
        used = self.patches * self.inputs * self.x.storage.itemsize
        return used + 2 * self.inputs * self.outputs + 4 * self.outputs + self.y.bytes

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped."""
        return asdict(self)

    def __str__(self) -> str:
        shape = f"batch {self.batch}, {self.height}x{self.width}, {self.channels} to {self.outputs} channels"
        image = f", {self.pixels} {self.order}" if self.image else ""
        tail = f"{image}{', residual' if self.residual else ''}"
        return f"patchconv({shape}, patch {self.patch}, {self.activation}, {self.dtype}{tail})"
