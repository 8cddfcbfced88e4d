"""What the plans of all convfirst kernels count alike."""

from __future__ import annotations

from collections.abc import Mapping

from kgen.blocks.convfirst.config import Sigmoid
from kgen.blocks.convfirst.problem import ConvFirst

STORAGE = {"float16": "f16", "bfloat16": "bf16"}
"""The templates' name of a dtype."""
CONV_FRAGMENT_FLOPS = 5 * 2 * 16 * 8 * 16
"""Operations executed to convolve 16 pixels of a group: five mma.m16n8k16, of whose ten taps one is padding."""
SIGMOIDS: Mapping[str, tuple[Sigmoid, ...]] = {
    "identity": ("exp2",),
    "relu": ("exp2",),
    "silu": ("tanh", "exp2"),
    "gelu_tanh": ("tanh", "exp2"),
    "gelu": ("tanh", "exp2"),
}
"""Ways to compute an activation; one that has no sigmoid names the first."""
_SPECIAL = {"silu": {"exp2": 2, "tanh": 1}, "gelu_tanh": {"exp2": 2, "tanh": 1}, "gelu": {"exp2": 0, "tanh": 1}}


def special_operations(problem: ConvFirst, sigmoid: Sigmoid, elements: int) -> int:
    """Special-function operations that activate ``elements``."""
    return elements * _SPECIAL.get(problem.activation, {}).get(sigmoid, 0)
