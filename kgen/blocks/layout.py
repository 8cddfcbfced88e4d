"""Sizes that the kernels of all families share."""

from __future__ import annotations

CONV_PAIR_BYTES = 5 * 512
"""Packed conv weights of a pair of groups: five fragment blocks."""


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def pitch_bytes(elements: int) -> int:
    """Row pitch of a shared tile of 16-bit elements: an odd number of 16-byte units."""
    return elements * 2 + 16
