"""The convfirst problem: a residual block that convolves before it expands.

z = gconv3x3(x) + b0; h = act(z W1 + b1); y = h W2 + b2 (+ x), in NHWC, with a group width of 8 channels,
stride 1 and zero padding 1. The block definition follows the public benchmark code that accompanies
arXiv 2404.03617; BatchNorm is folded into weights and biases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

from kgen.errors import ProblemError

Activation = Literal["silu", "relu", "gelu", "gelu_tanh", "identity"]
DType = Literal["float16", "bfloat16"]

GROUP_WIDTH = 8
KERNEL_SIZE = 3
MAX_CHANNELS = 1024
_HIDDEN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ConvFirst:
    """One ConvFirst block at one shape.

    ``x`` and ``y`` have shape (batch, height, width, channels) and dtype ``dtype``.

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

    family: ClassVar[str] = "convfirst"

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width", "channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ProblemError(f"{name} must be an integer >= 1, but got {name}={value!r}; pass a positive integer")
        if self.channels % 16 or self.channels > MAX_CHANNELS:
            nearest = max(16, min((self.channels + 8) // 16 * 16, MAX_CHANNELS))
            raise ProblemError(
                f"channels must be a multiple of 16 from 16 to {MAX_CHANNELS}, but got channels={self.channels}; "
                f"the nearest legal value is {nearest}"
            )
        self._check_expansion()
        _check_choice("activation", self.activation, get_args(Activation))
        _check_choice("dtype", self.dtype, get_args(DType))
        if not isinstance(self.residual, bool):
            raise ProblemError(f"residual must be True or False, but got residual={self.residual!r}; pass a bool")

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
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of x and y: (batch, height, width, channels)."""
        return (self.batch, self.height, self.width, self.channels)

    @property
    def flops(self) -> int:
        """Operations by direct convolution, 2 per multiply-accumulate: grouped conv, expand and project."""
        conv = self.channels * GROUP_WIDTH * KERNEL_SIZE * KERNEL_SIZE
        return 2 * self.pixels * (conv + 2 * self.channels * self.hidden)

    @property
    def min_dram_bytes(self) -> int:
        """Least bytes to and from DRAM: x and weights read once, y written once."""
        weights = self.channels * (GROUP_WIDTH * KERNEL_SIZE * KERNEL_SIZE + 2 * self.hidden)
        biases = 2 * self.channels + self.hidden
        return 2 * (2 * self.pixels * self.channels + weights) + 4 * biases

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON-shaped; an integer-valued expansion is an int."""
        whole = self.expansion == int(self.expansion)
        return asdict(self) | {"expansion": int(self.expansion) if whole else float(self.expansion)}

    def __str__(self) -> str:
        shape = f"batch {self.batch}, {self.height}x{self.width}, {self.channels} channels"
        tail = "" if self.residual else ", no residual"
        return f"convfirst({shape}, expansion {self.expansion:g}, {self.activation}, {self.dtype}{tail})"


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ProblemError(f"{name} must be one of {', '.join(choices)}, but got {name}={value!r}; choose one of them")
