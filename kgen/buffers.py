"""The buffers a kernel is checked and timed in: inputs and outputs between guard regions, on the GPU or on the host.

The same code serves both because CuPy mirrors NumPy: ``xp`` is one of the two modules.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kgen.cases import Case, Errors
from kgen.errors import VerificationError

GUARD_BYTES = 1 << 16
_ALIGNMENT = 256
# 0xFFFF is a NaN in float16 and in bfloat16: a read out of bounds poisons the output, a write changes the guard, and
# an output element that is never written stays NaN.
_FILL = 0xFF
_CHUNK_ELEMENTS = 1 << 24  # elements compared at a time, to bound temporaries


class Guarded:
    """``size`` bytes with a guard region before and after, all filled with NaN."""

    def __init__(self, xp: Any, size: int) -> None:
        self._memory = xp.empty(size + 2 * GUARD_BYTES + _ALIGNMENT, dtype=np.uint8)
        start = GUARD_BYTES + -address(self._memory) % _ALIGNMENT
        self._before = self._memory[:start]
        self.data = self._memory[start : start + size]
        self._after = self._memory[start + size :]
        self.blank()

    def blank(self) -> None:
        """Fill everything with NaN."""
        self._memory.fill(_FILL)

    def intact(self) -> bool:
        """Whether no byte of the guard regions has changed."""
        return bool((self._before == _FILL).all() and (self._after == _FILL).all())


class Buffers:
    """x, weights, hidden and y of a case, in ``copies`` sets of x and y that follow each other in memory.

    Several sets let a timing loop rotate through more memory than the caches hold.
    """

    def __init__(self, xp: Any, case: Case, workspace_bytes: int, copies: int = 1) -> None:
        self._xp = xp
        self._case = case
        self._index = np.tile(case.index, copies)
        self.copies = copies
        self._x_bytes, self._y_bytes = case.problem.x.bytes, case.problem.y.bytes
        self._images = xp.asarray(case.images.reshape(len(case.images), -1).view(np.uint8))
        self._reference = xp.asarray(case.reference.reshape(len(case.images), -1))
        self._packed = xp.asarray(case.packed)
        self._x = Guarded(xp, self._x_bytes * copies)
        self._weights = Guarded(xp, case.packed.nbytes)
        self._hidden = Guarded(xp, workspace_bytes)
        self._y = Guarded(xp, self._y_bytes * copies)
        self.reset()

    def reset(self) -> None:
        """Everything as it was before the first launch: also what a kernel wrote where it must not."""
        for buffer in self._guarded.values():
            buffer.blank()
        self._weights.data[:] = self._packed
        for rows, index in self._chunks():
            self._inputs()[rows] = self._images[index]

    def x(self, copy: int = 0) -> Any:
        """The bits of one set's input, an unsigned integer each element."""
        bits = np.dtype(f"u{self._case.images.itemsize}")
        return self._x.data[copy * self._x_bytes : (copy + 1) * self._x_bytes].view(bits)

    def y(self, copy: int = 0) -> Any:
        """The 16-bit words of one set's output."""
        return self._y.data[copy * self._y_bytes : (copy + 1) * self._y_bytes].view(np.uint16)

    @property
    def weights(self) -> Any:
        """The bytes of the packed weights."""
        return self._weights.data

    def pointers(self, copy: int = 0) -> tuple[int, int, int, int]:
        """Addresses of x, weights, hidden (0 without a workspace) and y of one set, in a kernel's parameter order."""
        hidden = address(self._hidden.data) if self._hidden.data.size else 0
        return address(self.x(copy)), address(self.weights), hidden, address(self.y(copy))

    def blank(self) -> None:
        """Fill hidden and y with NaN."""
        self._hidden.data.fill(_FILL)
        self._y.data.fill(_FILL)

    def check(self) -> Errors:
        """Errors of all outputs against float64, once the kernels have run.

        Raises:
            VerificationError: a guard region, x or the weights changed, or an error exceeds the case's bound.
        """
        for name, buffer in self._guarded.items():
            if not buffer.intact():
                raise VerificationError(
                    f"a kernel must write inside its buffers, but bytes next to {name} changed for "
                    f"{self._case.problem}; check the tile masks of this config"
                )
        if not self._inputs_unchanged():
            raise VerificationError(
                f"a kernel must not write its inputs, but x or weights changed for {self._case.problem}; "
                "check the stores of this config"
            )
        errors = self._errors()
        self._case.judge(errors)
        return errors

    @property
    def _guarded(self) -> dict[str, Guarded]:
        return {"x": self._x, "weights": self._weights, "hidden": self._hidden, "y": self._y}

    def _inputs(self) -> Any:
        """x as one row of bytes per image."""
        return self._x.data.reshape(len(self._index), -1)

    def _chunks(self) -> list[tuple[slice, Any]]:
        """Runs of images, each with the index of the distinct image it repeats."""
        step = max(1, _CHUNK_ELEMENTS // self._images.shape[1])
        starts = range(0, len(self._index), step)
        return [(slice(at, at + step), self._xp.asarray(self._index[at : at + step])) for at in starts]

    def _inputs_unchanged(self) -> bool:
        x = self._inputs()
        same = all(bool((x[rows] == self._images[index]).all()) for rows, index in self._chunks())
        return same and bool((self._weights.data == self._packed).all())

    def _errors(self) -> Errors:
        xp, outputs = self._xp, self._y.data.view(np.uint16).reshape(len(self._index), -1)
        squares, largest = [], []
        for rows, index in self._chunks():
            difference = _as_float64(xp, outputs[rows], self._case.problem.dtype) - self._reference[index]
            squares.append(_to_host((difference * difference).sum(axis=1)))
            largest.append(_to_host(abs(difference).max(axis=1)))
        return self._case.errors(np.concatenate(squares), np.concatenate(largest), self._index)


def address(array: Any) -> int:
    """Address of a NumPy or CuPy array's first byte."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _as_float64(xp: Any, bits: Any, dtype: str) -> Any:
    """16-bit words of a storage dtype as float64, exactly; bfloat16 is the upper half of a float32."""
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << xp.uint32(16)).view(np.float32).astype(np.float64)


def _to_host(array: Any) -> np.ndarray[Any, Any]:
    return array if isinstance(array, np.ndarray) else array.get()
