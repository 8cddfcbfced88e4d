"""The tensors that a problem's kernels take and make: shape, dtype, and the order in which their elements lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import ml_dtypes
import numpy as np

Order = Literal["nhwc", "nchw", "nc"]
Ints = tuple[int, ...]

DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "uint8": np.dtype(np.uint8),
}


TEMPLATE_TYPES = {"float16": "f16", "bfloat16": "bf16", "uint8": "unsigned char"}
"""The templates' names of the dtypes."""


@dataclass(frozen=True)
class View:
    """One way to present a tensor's memory; strides count elements."""

    shape: Ints
    strides: Ints
    turn: Ints | None = None
    """How the axes of the first view are to be transposed to make this one."""


@dataclass(frozen=True)
class Tensor:
    """A batch of images, or with order ``nc`` of vectors, contiguous in memory."""

    shape: tuple[int, int, int, int]
    """(batch, height, width, channels), whatever the order."""
    dtype: str
    order: Order = "nhwc"
    """How the elements lie in memory, outermost dimension first."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.storage.itemsize

    @property
    def storage(self) -> np.dtype[Any]:
        """The NumPy dtype of an element."""
        return DTYPES[self.dtype]

    @cached_property
    def views(self) -> tuple[View, ...]:
        """The presentations that are understood, the one in the order of the memory first."""
        batch, height, width, channels = self.shape
        if self.order == "nc":
            return (_contiguous((batch, channels)),)
        own = (batch, height, width, channels) if self.order == "nhwc" else (batch, channels, height, width)
        turn = (0, 3, 1, 2) if self.order == "nhwc" else (0, 2, 3, 1)
        first = _contiguous(own)
        return (first, View(tuple(first.shape[i] for i in turn), tuple(first.strides[i] for i in turn), turn))


def _contiguous(shape: Ints) -> View:
    return View(shape, tuple(prod(shape[i + 1 :]) for i in range(len(shape))))
