"""Named barriers order the warps that call them, and no others; misuse is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

TEXT = """
// Warps 1 to 3 hand rounds of words around, while warp 0 ends; `batch` takes a barrier away, or a warp.
KERNEL(hand_around) {
    unsigned char* const shared = dynamic_shared_memory();
    if (threadIdx.x < 32 || (batch == 3 && threadIdx.x < 64)) return;
    const int thread = threadIdx.x - 32;
    for (u32 round = 0; round < 5; ++round) {
        store_shared_u32(shared + thread * 4, round * 100 + thread);
        if (batch != 1) named_barrier_sync(1, 96);
        const u32 v = load_shared_u32(shared + (thread + 40) % 96 * 4);
        if (batch != 2) named_barrier_sync(15, 96);
        if (round == 4) store_global_16(y + thread * 8, Vec16{{v, 0, 0, 0}});
    }
}
// Two pairs of warps, each with a barrier of its own; in case 1 the second reads what the first wrote.
KERNEL(pairs) {
    unsigned char* const shared = dynamic_shared_memory();
    store_shared_u32(shared + threadIdx.x * 4, threadIdx.x);
    if (threadIdx.x < 64) named_barrier_sync(1, 64);
    else named_barrier_sync(2, 64);
    load_shared_u32(shared + (threadIdx.x ^ (batch == 1 ? 64 : 33)) * 4);
}
KERNEL(knows_through_another) {  // warp 0's word reaches warp 2 through warp 1
    unsigned char* const shared = dynamic_shared_memory();
    const unsigned warp = threadIdx.x / 32;
    if (warp == 0) store_shared_u32(shared + threadIdx.x * 4, 1);
    if (warp < 2) named_barrier_sync(1, 64);
    if (warp > 0) named_barrier_sync(2, 64);
    if (warp == 2) load_shared_u32(shared + threadIdx.x % 32 * 4);
}
KERNEL(operand) {  // of a wgmma, laid down by another warp
    unsigned char* const shared = dynamic_shared_memory();
    if (threadIdx.x >= 128)
        for (int i = threadIdx.x - 128; i < 256; i += 32) store_shared_u32(shared + i * 4, 0);
    if (threadIdx.x >= 128 && batch == 0) fence_proxy_async();
    named_barrier_sync(3, 160);
    if (threadIdx.x >= 128) return;
    u32 a[4] = {};
    float d[2][4];
    wgmma_fence();
    wgmma<f16, false>(d, a, wgmma_descriptor(shared, 128, 256));
    wgmma_commit();
    wgmma_wait<0>();
}
KERNEL(counts) {
    if (threadIdx.x < 32) named_barrier_sync(1, 64);
    else named_barrier_sync(1, 96);
}
KERNEL(given) { named_barrier_sync(batch / 1000, batch % 1000); }
KERNEL(lanes_of_several_numbers) { named_barrier_sync(1 + threadIdx.x % 2, 64); }
KERNEL(lanes_of_several_counts) { named_barrier_sync(1, 32 + threadIdx.x % 2 * 32); }
KERNEL(in_clusters) {  // warps 0 and 1 meet; in case 1 only one of them of each CTA is there
    if (threadIdx.x / 32 < 2 && (batch == 0 || threadIdx.x / 32 == cluster_rank())) named_barrier_sync(7, 64);
}
// CTA 1 writes byte 256 and then copies byte 512 to CTA 0: there warp 0 waits for it, and warp 1 copies to byte 256 of
// CTA 1 when warp 0 has told it, or in case 1 before.
KERNEL(knows_of_another_cta) {
    unsigned char* const shared = dynamic_shared_memory();
    Barrier* const full = reinterpret_cast<Barrier*>(shared);
    const u32 rank = cluster_rank(), warp = threadIdx.x / 32;
    const bool leader = threadIdx.x % 32 == 0;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (leader && warp != rank) store_shared_16(shared + 256, Vec16{});
    cluster_arrive();
    cluster_wait();
    if (threadIdx.x == 0) mbarrier_arrive_expect(full, 16);
    if (rank == 1 && threadIdx.x == 0) {
        store_shared_16(shared + 512, Vec16{});
        fence_proxy_async();
        bulk_copy_to_cta(shared + 512, 16, 0, full);
    }
    if (rank == 1 || warp == 0) mbarrier_wait(full, 0);
    if (rank == 0 && batch == 0) named_barrier_sync(1, 64);
    if (rank == 0 && threadIdx.x == 32) {
        fence_proxy_async();
        bulk_copy_to_cta(shared + 256, 16, 1, full);
    }
    cluster_arrive();
    cluster_wait();
}
KERNEL(writes_what_others_read) {  // warps 1 and 2 read; warp 0 writes after it has met both, in case 1 the first
    unsigned char* const shared = dynamic_shared_memory();
    const unsigned warp = threadIdx.x / 32;
    if (warp == 0) store_shared_u32(shared + threadIdx.x * 4, 1);
    __syncthreads();
    if (warp > 0) load_shared_u32(shared + threadIdx.x % 32 * 4);
    if (warp < 2) named_barrier_sync(1, 64);
    if (warp != 1 && batch == 0) named_barrier_sync(2, 64);
    if (warp == 0) store_shared_u32(shared + threadIdx.x * 4, 2);
}
KERNEL(divergent) {
    if (threadIdx.x % 2) named_barrier_sync(1, 32);
    else __syncwarp();
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def test_a_barrier_separates_rounds_of_its_warps(library: HostLibrary, launch: Launch) -> None:
    for seed in range(20):
        y = launch(library, "hand_around", threads=128, seed=seed)
        words = y[: 96 * 8].view(np.uint32)[::4]
        np.testing.assert_array_equal(words, 400 + (np.arange(96) + 40) % 96)


@pytest.mark.parametrize("case", [1, 2])
def test_without_it_there_is_a_race(library: HostLibrary, launch: Launch, case: int) -> None:
    for seed in range(5):
        with pytest.raises(EmulatorError, match="race on shared memory"):
            launch(library, "hand_around", threads=128, seed=seed, batch=case)


def test_a_missing_warp_is_a_deadlock(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError) as caught:
        launch(library, "hand_around", threads=128, batch=3)
    text = str(caught.value)
    assert "every named barrier must be reached by as many threads as it counts" in text
    assert "threads 0-63 have exited" in text
    assert "threads 64-127 wait at" in text and "for named barrier 1, which lacks 32 of 96 threads" in text


def test_a_barrier_orders_its_own_warps_only(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        launch(library, "pairs", threads=128, seed=seed)
        launch(library, "knows_through_another", threads=96, seed=seed)
        with pytest.raises(EmulatorError, match="race on shared memory"):
            launch(library, "pairs", threads=128, seed=seed, batch=1)


def test_it_hands_over_what_a_fence_has_ordered_for_wgmma(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        launch(library, "operand", threads=160, seed=seed)
        with pytest.raises(EmulatorError, match="must call fence_proxy_async"):
            launch(library, "operand", threads=160, seed=seed, batch=1)


def test_counts_must_agree(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(
        EmulatorError, match=r"must name as many threads, .* for barrier 1 and the one at kernel.cu:\d+"
    ):
        launch(library, "counts", threads=96)


def test_lanes_arrive_together(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match="named_barrier_sync"):
        launch(library, "divergent", threads=32)


@pytest.mark.parametrize(
    ("number", "threads", "rule"),
    [
        (0, 32, "a number from 1 to 15, .* passes 0; "),
        (16, 32, "a number from 1 to 15, .* passes 16; "),
        (1, 0, "a multiple of 32 threads from 32 to the CTA's 64, .* passes 0; "),
        (1, 40, "a multiple of 32 threads from 32 to the CTA's 64, .* passes 40; "),
        (1, 96, "a multiple of 32 threads from 32 to the CTA's 64, .* passes 96; "),
    ],
)
def test_numbers_and_counts_are_checked(
    library: HostLibrary, launch: Launch, number: int, threads: int, rule: str
) -> None:
    with pytest.raises(EmulatorError, match=f"named_barrier_sync must get {rule}correct the"):
        launch(library, "given", threads=64, batch=number * 1000 + threads)


@pytest.mark.parametrize("kernel", ["lanes_of_several_numbers", "lanes_of_several_counts"])
def test_lanes_agree(library: HostLibrary, launch: Launch, kernel: str) -> None:
    with pytest.raises(EmulatorError, match="all lanes of a warp must name the same barrier and as many threads"):
        launch(library, kernel, threads=64)


def test_each_cta_of_a_cluster_has_its_own(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        launch(library, "in_clusters", grid=4, cluster=2, threads=96, seed=seed)
    with pytest.raises(EmulatorError) as caught:
        launch(library, "in_clusters", grid=2, cluster=2, threads=96, batch=1)
    text = str(caught.value)
    assert "every named barrier must be reached by as many threads as it counts" in text
    assert text.count("for named barrier 7, which lacks 32 of 64 threads") == 2
    assert "block 0's threads 0-31 wait at" in text and "block 1's threads 32-63 wait at" in text


def test_a_warp_tells_what_a_copy_to_its_cta_has_told_it(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        launch(library, "knows_of_another_cta", grid=2, cluster=2, threads=64, seed=seed)
        with pytest.raises(EmulatorError, match="race on shared memory"):
            launch(library, "knows_of_another_cta", grid=2, cluster=2, threads=64, seed=seed, batch=1)


def test_reads_before_it_are_remembered(library: HostLibrary, launch: Launch) -> None:
    """Of several warps, in a kernel without mbarriers: who has met all of them may write, who has not may not."""
    for seed in range(10):
        launch(library, "writes_what_others_read", threads=96, seed=seed)
        with pytest.raises(EmulatorError, match="race on shared memory"):
            launch(library, "writes_what_others_read", threads=96, seed=seed, batch=1)
