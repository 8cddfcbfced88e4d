"""What a call that only queues work costs the host."""

from __future__ import annotations

import time
from collections.abc import Callable

CALLS, ROUNDS = 100, 30


def host_us(call: Callable[[], object]) -> float:
    """Microseconds of one call, in the best of some rounds, each of fewer calls than the GPU's queue has room for."""
    import cupy

    best_s = float("inf")
    for _ in range(ROUNDS):
        cupy.cuda.runtime.deviceSynchronize()
        start_s = time.perf_counter()
        for _ in range(CALLS):
            call()
        best_s = min(best_s, time.perf_counter() - start_s)
    cupy.cuda.runtime.deviceSynchronize()
    return best_s / CALLS * 1e6
