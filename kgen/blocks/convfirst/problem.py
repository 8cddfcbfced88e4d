"""The convfirst problem: a residual block that convolves before it expands.

z = gconv3x3(x) + b0; h = act(z W1 + b1); y = h W2 + b2 (+ x), in NHWC, with a group width of 8 channels,
stride 1 and zero padding 1. The block definition follows the public benchmark code that accompanies
arXiv 2404.03617; BatchNorm is folded into weights and biases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from kgen.blocks.activations import Activation
from kgen.blocks.requirements import check_choice, check_positive
from kgen.errors import ProblemError
from kgen.tensors import Tensor

DType = Literal["float16", "bfloat16"]
Matmul = Literal["storage", "float8"]

GROUP_WIDTH = 8
KERNEL_SIZE = 3
MAX_CHANNELS = 1024
FLOAT8_UNIT = 64
_HIDDEN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ConvFirst:
    """One ConvFirst block at one shape.

    ``x`` and ``y`` have shape (batch, height, width, channels) and dtype ``dtype``, and so do the weights. ``matmul``
    is what the expand and project matmuls multiply: ``storage``, elements of that dtype, or ``float8``, e4m3 with a
    scale per channel (see :mod:`kgen.blocks.convfirst.float8`), at some cost of accuracy and on Hopper alone.

    Raises:
        ProblemError: a field breaks its rule; the message names rule, value and next step.
    """

    batch: int
    height: int
    width: int
    channels: int
    expansion: float = 4
    activation: Activation = "silu"
    dtype: DType = "float16"
    residual: bool = True
    matmul: Matmul = "storage"

    family: ClassVar[str] = "convfirst"

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width", "channels"):
            check_positive(name, getattr(self, name))
        if self.channels % 16 or self.channels > MAX_CHANNELS:
            nearest = max(16, min((self.channels + 8) // 16 * 16, MAX_CHANNELS))
            raise ProblemError(
                f"channels must be a multiple of 16 from 16 to {MAX_CHANNELS}, but got channels={self.channels}; "
                f"the nearest legal value is {nearest}"
            )
        self._check_expansion()
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("dtype", self.dtype, get_args(DType))
        if not isinstance(self.residual, bool):
            raise ProblemError(f"residual must be True or False, but got residual={self.residual!r}; pass a bool")
        check_choice("matmul", self.matmul, get_args(Matmul))
        if self.matmul == "float8" and (self.channels % FLOAT8_UNIT or self.hidden % FLOAT8_UNIT):
            raise ProblemError(
                f"channels and hidden channels must be multiples of {FLOAT8_UNIT} with matmul='float8', but got "
                f"{self.channels} and {self.hidden}; change them, or use matmul='storage'"
            )

    def _check_expansion(self) -> None:
        value = self.expansion
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 8:
            raise ProblemError(
                f"expansion must be a number from 1 to 8, but got expansion={value!r}; 4 is the usual choice"
            )
        hidden = value * self.channels
        # 1.1 and 4/3 have no exact float, yet 1.1 x 160 and 4/3 x 48 are legal: a rounding error is forgiven.
        if round(hidden) % 16 or abs(hidden - round(hidden)) > _HIDDEN_TOLERANCE:
            raise ProblemError(
                f"expansion * channels must be a multiple of 16, but got expansion={value:.9g} with "
                f"channels={self.channels} (hidden={hidden:.9g}); choose another expansion, such as {int(value)}"
            )

    @property
    def hidden(self) -> int:
        """Hidden channels: expansion x channels."""
        return round(self.expansion * self.channels)

    @property
    def pixels(self) -> int:
        """Pixels of the whole batch."""
        return self.batch * self.height * self.width

    @property
    def matmul_bytes(self) -> int:
        """Bytes of an element that the expand and project matmuls take."""
        return 1 if self.matmul == "float8" else 2

    @property
    def x(self) -> Tensor:
        return Tensor((self.batch, self.height, self.width, self.channels), self.dtype)

    @property
    def y(self) -> Tensor:
        return self.x

    @property
    def sizes(self) -> tuple[float, ...]:
        """By whose ratios problems are near each other: channels, pixels of an image, batch, expansion."""
        return (self.channels, self.height * self.width, self.batch, self.expansion)

    @property
    def flops(self) -> int:
        """Operations by direct convolution, 2 per multiply-accumulate: grouped conv, expand and project."""
        conv = self.channels * GROUP_WIDTH * KERNEL_SIZE * KERNEL_SIZE
        return 2 * self.pixels * (conv + 2 * self.channels * self.hidden)

    @property
    def min_dram_bytes(self) -> int:
        """Least bytes to and from DRAM: x and weights read once, y written once."""
        conv = self.channels * GROUP_WIDTH * KERNEL_SIZE * KERNEL_SIZE
        matrices = 2 * self.matmul_bytes * self.channels * self.hidden
        return 2 * (2 * self.pixels * self.channels + conv) + matrices + 4 * self.vector_values

    @property
    def vector_values(self) -> int:
        """Float32 values beside the matrices: biases, and with float8 the scales of expand, of h and of project."""
        scales = 2 * self.hidden + self.channels if self.matmul == "float8" else 0
        return 2 * self.channels + self.hidden + scales

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped; an integer-valued expansion is an int."""
        whole = self.expansion == int(self.expansion)
        return asdict(self) | {"expansion": int(self.expansion) if whole else float(self.expansion)}

    def __str__(self) -> str:
        shape = f"batch {self.batch}, {self.height}x{self.width}, {self.channels} channels"
        tail = ("" if self.residual else ", no residual") + (", float8 matmuls" if self.matmul == "float8" else "")
        return f"convfirst({shape}, expansion {self.expansion:g}, {self.activation}, {self.dtype}{tail})"
