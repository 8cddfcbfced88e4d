"""What a Hopper side's kernels contribute to a program."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.machine import KernelPlan

Constants = dict[str, int | bool]


@dataclass(frozen=True)
class Parts:
    """Constants of the template beyond the problem's, kernels in launch order, workspace, and tiles as in a program."""

    constants: Constants
    kernels: tuple[KernelPlan, ...]
    workspace_bytes: int
    tiles: int
    ragged: bool
