"""A pipelined kernel is right under every schedule, and removing any one wait or barrier is always noticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError
from kgen.machine import Program

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

THREADS, STEPS, STAGES = 96, 7, 3
SHARED_BYTES = STAGES * THREADS * 16

# Sums STEPS slices of x, each thread reading what its neighbour copied. Bits of `batch` drop a wait or a barrier.
TEXT = """
constexpr int STEPS = 7, STAGES = 3, SLOT = 96 * 16;
KERNEL(ring) {
    unsigned char* shared = dynamic_shared_memory();
    auto load = [&](int step) {
        cp_async_16(shared + step % STAGES * SLOT + threadIdx.x * 16, x + (step * 96 + threadIdx.x) * 8, step < STEPS);
        cp_async_commit();
    };
    load(0);
    load(1);
    float sum[8] = {};
    for (int step = 0; step < STEPS; ++step) {
        if (!(batch & 1)) cp_async_wait<STAGES - 2>();
        if (!(batch & 2)) __syncthreads();
        load(step + 2);
        Vec16 v = load_shared_16(shared + step % STAGES * SLOT + (threadIdx.x + 40) % 96 * 16);
        for (int i = 0; i < 4; ++i) {
            FloatPair pair = unpack<f16>(v.word[i]);
            sum[2 * i] += pair.low, sum[2 * i + 1] += pair.high;
        }
        __syncwarp();
    }
    cp_async_wait<0>();
    if (!(batch & 4)) __syncthreads();
    for (int i = 0; i < 4; ++i)
        store_shared_u32(shared + threadIdx.x * 16 + i * 4, pack<f16>(sum[2 * i], sum[2 * i + 1]));
    if (!(batch & 8)) __syncthreads();
    store_global_16(y + threadIdx.x * 8, load_shared_16(shared + (threadIdx.x + 56) % 96 * 16));
}
KERNEL(first) { store_global_16(hidden + threadIdx.x * 8, load_shared_16(dynamic_shared_memory() + threadIdx.x * 16)); }
KERNEL(second) {
    if (threadIdx.x < 32) {
        store_global_16(y + threadIdx.x * 8, load_global_16(hidden + (threadIdx.x + 32) * 8));
    }
}
KERNEL(fill_hidden) { store_global_16(hidden + threadIdx.x * 8, Vec16{{1, 2, 3, threadIdx.x}}); }
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


@pytest.fixture(scope="module")
def x() -> Array:
    return np.random.default_rng(5).integers(-9, 9, STEPS * THREADS * 8).astype(np.float16)


def expected(x: Array) -> Array:
    return x.reshape(STEPS, THREADS, 8).sum(axis=0)


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("seed", range(6))
def test_pipeline_is_right_under_every_schedule(
    library: HostLibrary, launch: Launch, x: Array, completion: str, seed: int
) -> None:
    y = launch(
        library, "ring", x=x, threads=THREADS, shared_bytes=SHARED_BYTES, seed=seed, completion=completion, grid=2
    )
    np.testing.assert_array_equal(y[: THREADS * 8].reshape(THREADS, 8), expected(x))


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("dropped", [1, 2, 4, 8])
def test_every_dropped_wait_or_barrier_is_noticed(
    library: HostLibrary, launch: Launch, x: Array, dropped: int, completion: str
) -> None:
    for seed in range(10):
        with pytest.raises(EmulatorError, match=r"in flight|race on shared memory"):
            launch(
                library,
                "ring",
                x=x,
                threads=THREADS,
                shared_bytes=SHARED_BYTES,
                batch=dropped,
                seed=seed,
                completion=completion,
            )


def program(*symbols: str, workspace_bytes: int) -> Program:
    kernels = [SimpleNamespace(symbol=name, grid=1, threads=64, cluster=1, shared_bytes=1024) for name in symbols]
    return cast(Program, SimpleNamespace(kernels=kernels, workspace_bytes=workspace_bytes))


def run_program(library: HostLibrary, *symbols: str) -> Array:
    y = np.zeros(256, np.float16)
    arrays = np.zeros(64, np.float16), np.zeros(64, np.uint8)
    library.launch(program(*symbols, workspace_bytes=1024), *arrays, y, batch=1)
    return y


def test_launch_runs_kernels_in_order(library: HostLibrary) -> None:
    y = run_program(library, "fill_hidden", "second").view(np.uint32).reshape(32, 4)
    np.testing.assert_array_equal(y[:, 3], np.arange(32, 64))


@pytest.mark.parametrize("symbols", [("second",), ("first", "second")], ids=["hidden", "shared"])
def test_memory_that_nobody_wrote_reads_as_nan(library: HostLibrary, symbols: tuple[str, ...]) -> None:
    assert np.isnan(run_program(library, *symbols)).all()


def test_launches_from_several_threads_take_turns(library: HostLibrary, launch: Launch, x: Array) -> None:
    results: list[Array] = []

    def work() -> None:
        for _ in range(5):
            results.append(launch(library, "ring", x=x, threads=THREADS, shared_bytes=SHARED_BYTES))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for y in results:
        np.testing.assert_array_equal(y[: THREADS * 8].reshape(THREADS, 8), expected(x))
