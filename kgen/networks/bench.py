"""Measuring whole networks: throughput, latency call by call, memory, and how far that is from the ideal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kgen.devices import Device
from kgen.machine import ideal_us
from kgen.networks.spec import Network

CALLS = 1000
_WARM_UP_CALLS = 20


@dataclass(frozen=True)
class Contender:
    """Something that runs a network on images of its own: ``call`` queues one batch, ``synchronize`` waits for it.

    ``memory_bytes`` tells what it takes of the GPU's memory, weights included, once it has run.
    """

    name: str
    call: Callable[[], object]
    synchronize: Callable[[], object]
    memory_bytes: Callable[[], int]


@dataclass(frozen=True)
class Figures:
    """One contender at one batch.

    Latencies are from the call until its logits are there, one call at a time; ``images_per_s`` is of calls that are
    queued one behind the other. ``efficiency`` is the ideal latency, operations by peak rate, over the time a call
    takes then.
    """

    contender: str
    batch: int
    p50_us: float
    p99_us: float
    images_per_s: float
    memory_bytes: int
    ideal_us: float
    efficiency: float


def measure(
    contender: Contender, network: Network, batch: int, size: int, device: Device, calls: int = CALLS
) -> Figures:
    """Measure ``calls`` calls one at a time, and as many in a row."""
    for _ in range(_WARM_UP_CALLS):
        contender.call()
    contender.synchronize()
    latencies_us = [_latency_us(contender) for _ in range(calls)]
    start_s = time.perf_counter()
    for _ in range(calls):
        contender.call()
    contender.synchronize()
    in_a_row_us = (time.perf_counter() - start_s) / calls * 1e6
    ideal = sum(ideal_us(layer.problem.flops, device) for layer in network.layers(batch, size, size))
    return Figures(
        contender=contender.name,
        batch=batch,
        p50_us=float(np.median(latencies_us)),
        p99_us=float(np.percentile(latencies_us, 99)),
        images_per_s=batch / in_a_row_us * 1e6,
        memory_bytes=contender.memory_bytes(),
        ideal_us=ideal,
        efficiency=ideal / in_a_row_us,
    )


def _latency_us(contender: Contender) -> float:
    start_s = time.perf_counter()
    contender.call()
    contender.synchronize()
    return (time.perf_counter() - start_s) * 1e6
