"""Asynchronous copies and wgmma in CTAs of a cluster: each for itself, and beside what another CTA copies there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

MATMUL = {"grid": 2, "cluster": 2, "threads": 128, "shared_bytes": 12800}

BEFORE = "a copy to another CTA must come after what that has done there"
# Each kernel's `batch` chooses a case.
TEXT = """
__device__ inline void sync() {
    cluster_arrive();
    cluster_wait();
}
__device__ inline void initialise(Barrier* first) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; ++i) mbarrier_init(first + i, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
}

// Copies some of what the CTA's own bulk copy has brought over the other's.
__device__ inline void copy_over(Barrier* full, u32 other) {
    if (threadIdx.x == 0) bulk_copy_to_cta(dynamic_shared_memory() + 2048 * (other == 0), 1024, other, full + 2);
    __syncwarp();
}
// A slice of cp.async and of a bulk copy, then a wgmma, in each CTA for itself; then the other CTA overwrites one, once
// it knows of that by a copy of a few bytes, unless the case is that it does so before.
KERNEL(alone) {
    unsigned char *const shared = dynamic_shared_memory(), *const token = shared + 8704;
    Barrier* const full = reinterpret_cast<Barrier*>(shared + 8192);
    const u32 other = cluster_rank() ^ 1;
    initialise(full);
    for (u32 i = threadIdx.x; i < 128; i += blockDim.x) cp_async_16(shared + 4096 + i * 16, x + i * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    sync();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, 4096);
        bulk_copy(shared, weights, 4096, full);
    }
    if (threadIdx.x == 0) mbarrier_arrive_expect(full + 1, 16), mbarrier_arrive_expect(full + 2, 1024);
    if (batch == 1) copy_over(full, other);
    mbarrier_wait(full, 0);
    float d[2][4];
    wgmma_fence();
    wgmma<f16, false>(d, wgmma_descriptor(shared, 128, 256), wgmma_descriptor(shared + 4096, 128, 256));
    wgmma_commit();
    if (batch == 2) sync();
    if (batch == 2) copy_over(full, other);
    wgmma_wait<0>();
    if (batch == 3) copy_over(full, other);
    store_shared_16(token + cluster_rank() * 2048 + threadIdx.x * 16, Vec16{});
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) bulk_copy_to_cta(token + cluster_rank() * 2048, 16, other, full + 1);
    __syncwarp();
    mbarrier_wait(full + 1, 0);
    if (batch == 0) copy_over(full, other);
    mbarrier_wait(full + 2, 0);
    sync();
    for (int i = 0; i < 2; ++i)
        store_global_16(y + ((blockIdx.x * 128 + threadIdx.x) * 2 + i) * 8,
                        Vec16{{__float_as_uint(d[i][0]), __float_as_uint(d[i][1]), __float_as_uint(d[i][2]),
                               __float_as_uint(d[i][3])}});
}
// wgmma reads what the other CTA has copied, which needs no fence.
KERNEL(multiply) {
    unsigned char* const shared = dynamic_shared_memory();
    Barrier* const full = reinterpret_cast<Barrier*>(shared + 8192);
    const u32 rank = cluster_rank();
    initialise(full);
    if (threadIdx.x == 0) mbarrier_arrive_expect(full, 4096);
    for (u32 i = threadIdx.x; i < 256; i += 128) store_shared_16(shared + rank * 4096 + i * 16, Vec16{});
    if (batch != 1 || threadIdx.x == 70) fence_proxy_async();
    sync();
    __syncthreads();
    if (threadIdx.x == 0) bulk_copy_to_cta(shared + rank * 4096, 4096, rank ^ 1, full);
    __syncwarp();
    if (batch != 2) mbarrier_wait(full, 0);
    float d[2][4];
    wgmma_fence();
    wgmma<f16, false>(d, wgmma_descriptor(shared, 128, 256), wgmma_descriptor(shared + 4096, 128, 256));
    wgmma_commit();
    wgmma_wait<0>();
    sync();
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


@pytest.mark.parametrize("completion", ["late", "random"])
def test_each_cta_copies_and_multiplies_for_itself(library: HostLibrary, launch: Launch, completion: str) -> None:
    random = np.random.default_rng(1)
    x, weights = (random.integers(-4, 5, 2048).astype(np.float16) for _ in range(2))
    a = weights[:1024].reshape(8, 2, 8, 8).transpose(0, 2, 1, 3).reshape(64, 16)
    b = x[:512].reshape(4, 2, 8, 8).transpose(0, 2, 1, 3).reshape(32, 16)[:16]
    product = a.astype(np.float32) @ b.astype(np.float32).T
    for seed in range(4):
        shape = {**MATMUL, "x": x, "weights": weights.view(np.uint8), "seed": seed, "completion": completion}
        y = launch(library, "alone", **shape)
        # Of a tile, lane l holds two neighbouring columns in row l / 4 and in row l / 4 + 8.
        seen = y.view(np.float32)[: 2 * 128 * 8].reshape(2, 4, 8, 4, 2, 2, 2).transpose(0, 1, 5, 2, 4, 3, 6)
        np.testing.assert_array_equal(seen.reshape(2, 64, 16), np.broadcast_to(product, (2, 64, 16)))


@pytest.mark.parametrize(
    ("symbol", "case", "message"),
    [
        ("alone", 1, rf"{BEFORE}|thread 0 of block [01] copies to|which thread 0 copies to|while a copy to another"),
        ("alone", 2, rf"{BEFORE}|must not be written while a wgmma reads it, .* of shared memory of block [01]"),
        ("alone", 3, rf"{BEFORE}|thread 0 of block [01] copies to|while a wgmma reads it|after a bulk copy"),
        ("multiply", 1, r"fence_proxy_async after it has written what bulk_copy_to_cta reads"),
        ("multiply", 2, rf"{BEFORE}|thread 0 of block [01] copies to|while a wgmma reads it|after a bulk copy"),
    ],
)
def test_copies_that_disturb_a_copy_or_wgmma(
    library: HostLibrary, launch: Launch, symbol: str, case: int, message: str
) -> None:
    for seed in range(8):
        for completion in ("late", "random"):
            with pytest.raises(EmulatorError, match=message):
                launch(library, symbol, **MATMUL, batch=case, seed=seed, completion=completion)


def test_wgmma_reads_what_was_copied(library: HostLibrary, launch: Launch) -> None:
    for seed in range(4):
        launch(library, "multiply", **MATMUL, seed=seed)
