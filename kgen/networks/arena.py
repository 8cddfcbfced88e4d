"""Where the tensors between a network's layers lie: offsets into one allocation, planned before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT_BYTES = 256


@dataclass(frozen=True)
class Arena:
    """The memory of one call: two buffers by turns for the tensors, and one workspace for all programs.

    ``y`` has the offset of each program's output but the last one's, which is the next program's input; images and
    logits lie outside.
    """

    y: tuple[int, ...]
    workspace: int
    bytes: int


def plan_arena(y_bytes: Sequence[int], workspace_bytes: Sequence[int]) -> Arena:
    """The arena of programs that run one after the other, each on the output of the one before."""
    between = [_aligned(size) for size in y_bytes[:-1]]
    even, odd = max(between[::2], default=0), max(between[1::2], default=0)
    workspace = max(map(_aligned, workspace_bytes))
    return Arena(
        y=tuple(even * (i % 2) for i in range(len(between))), workspace=even + odd, bytes=even + odd + workspace
    )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
