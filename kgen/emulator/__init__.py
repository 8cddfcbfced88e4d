"""The CPU emulator: builds the very source that the GPU would run with the host's C++ compiler, and runs it checked.

Each CTA's threads run as fibres; warp-wide instructions are computed once per warp; asynchronous copies and wgmma take
effect as late as their waits allow. Accesses out of bounds, misaligned, racing in shared memory or ahead of a wait,
misused barriers, divergent collectives and deadlocks raise :class:`kgen.errors.EmulatorError` with the thread's
coordinates.
"""

from __future__ import annotations

from kgen.emulator.library import HostLibrary
from kgen.emulator.toolchain import build

__all__ = ["HostLibrary", "build"]
