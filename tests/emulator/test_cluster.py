"""Clusters of CTAs, their barrier and copies to each other: right uses pass, each misuse is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kgen import env
from kgen.compile import compile_cubin
from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError
from kgen.machine import Program
from kgen.render import Source

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

PAIR = {"grid": 2, "cluster": 2, "threads": 64}
FOUR = {"grid": 4, "cluster": 4, "threads": 64, "shared_bytes": 16384}

# Each kernel's `batch` chooses a case. Barriers lie at the front of shared memory, then slots of 16 bytes.
TEXT = """
__device__ inline void sync() {
    cluster_arrive();
    cluster_wait();
}
__device__ inline Barrier* barrier(int i = 0) { return reinterpret_cast<Barrier*>(dynamic_shared_memory()) + i; }
__device__ inline unsigned char* slot(u32 i) { return dynamic_shared_memory() + 128 + i * 16; }
__device__ inline void initialise(bool fenced = true) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; ++i) mbarrier_init(barrier(i), 1);
        if (fenced) mbarrier_init_fence();
    }
    __syncthreads();
}
__device__ inline void expect(u32 bytes, int i = 0) {
    if (threadIdx.x == 0) mbarrier_arrive_expect(barrier(i), bytes);
}
__device__ inline void fill(u32 first, u32 value) {
    store_shared_16(slot(first + threadIdx.x), Vec16{{value, threadIdx.x, 0, blockIdx.x}});
    fence_proxy_async();
    __syncthreads();
}

// Every CTA's slice goes to all CTAs, which each write the whole row to their part of y; round after round, with two
// buffers: who sends a round's slice knows that the others have read the one before the last.
template <u32 Cluster>
__device__ inline void exchange_slices(int batch, f16* y, int rounds) {
    const u32 rank = cluster_rank(), slice = blockDim.x * 16, all = Cluster * blockDim.x;
    initialise();
    if (batch != 1) sync();
    for (int round = 0; round < rounds; ++round) {
        const int buffer = batch == 3 ? 0 : round % 2;
        Barrier* const full = barrier(round % 2);
        unsigned char* const mine = slot(buffer * all + rank * blockDim.x);
        store_shared_16(mine + threadIdx.x * 16,
                        Vec16{{rank * blockDim.x + threadIdx.x, static_cast<u32>(round), rank, blockIdx.x}});
        if (batch != 4) fence_proxy_async();
        if (batch == 5) __syncwarp();
        else __syncthreads();
        if (threadIdx.x == 0) mbarrier_arrive_expect(full, (Cluster - 1) * slice);
        if (threadIdx.x < Cluster - 1) bulk_copy_to_cta(mine, slice, (rank + threadIdx.x + 1) % Cluster, full);
        __syncwarp();
        if (batch != 2) mbarrier_wait(full, round / 2 % 2);
        const u32 part = blockIdx.x * all;
        for (u32 from = threadIdx.x; from < all; from += blockDim.x)
            store_global_16(y + (part + from) * 8, load_shared_16(slot(buffer * all + (from + 32) % all)));
    }
    if (batch != 6) sync();
}
KERNEL(exchange2) { exchange_slices<2>(batch, y, 5); }
KERNEL(exchange4) { exchange_slices<4>(batch, y, 5); }
KERNEL(exchange16) { exchange_slices<16>(batch, y, 3); }

// CTA 0 copies 1024 bytes to CTA 1.
KERNEL(hand_over) {
    const u32 rank = cluster_rank();
    if (batch == 11 && rank == 1) {
        cluster_arrive();
        initialise();
        cluster_wait();
    } else {
        initialise(batch != 10 || rank == 0);
        sync();
    }
    if (rank == 1 && batch != 7) expect(batch == 8 ? 512 : batch == 9 ? 2048 : 1024);
    if (rank == 0) {
        fill(0, 7);
        if (threadIdx.x == 33) bulk_copy_to_cta(slot(0), 1024, 1, barrier(batch == 12 ? 8 : 0));
        __syncthreads();
        if (batch == 3) fill(0, 8);
    } else {
        if (batch == 7) {  // the bytes may have come
            for (int i = 0; i < 50; ++i) __syncwarp();
            expect(1024);
        }
        if (batch == 1) return;
        if (batch == 6) fill(0, 9);
        if (batch != 5) mbarrier_wait(barrier(), 0);
        store_global_16(y + (threadIdx.x ^ 33) * 8, load_shared_16(slot(threadIdx.x ^ 33)));
    }
    if (batch == 2) return;
    sync();
    if (rank == 0 && batch == 4) fill(0, 8);
}

// CTA 0 reads a region and then copies to 1, which copies to the last, which copies to the region.
template <u32 Cluster>
__device__ inline void go_around(int batch, f16* y) {
    const u32 rank = cluster_rank();
    initialise();
    expect(1024);
    if (rank == 0) fill(0, rank);
    fill(64, rank);
    sync();
    if (rank == 0) {
        if (batch != 3) load_shared_16(slot(64 + (threadIdx.x ^ 33)));
        if (batch == 5) store_shared_16(slot(64 + (threadIdx.x ^ 33)), Vec16{});
        if (batch != 6) __syncthreads();
        if (threadIdx.x == 40) bulk_copy_to_cta(slot(0), 1024, 1, barrier());
        if (batch == 3) load_shared_16(slot(64 + (threadIdx.x ^ 33)));
        __syncwarp();
        if (batch == 4) sync();
        mbarrier_wait(barrier(), 0);
        store_global_16(y + (threadIdx.x ^ 33) * 8, load_shared_16(slot(64 + (threadIdx.x ^ 33))));
    } else {
        const bool last = rank + 1 == Cluster;
        if (batch == 4) sync();  // of no use
        else if (batch == 2 && threadIdx.x < 32) mbarrier_wait(barrier(), 0);
        else if (batch != 1 && batch != 2) mbarrier_wait(barrier(), 0);
        if (batch == 0) __syncthreads();
        if (threadIdx.x == 40) bulk_copy_to_cta(slot(last ? 64 : 0), 1024, last ? 0 : rank + 1, barrier());
        __syncwarp();
        if (batch == 1 || batch == 2 || batch == 4) mbarrier_wait(barrier(), 0);
    }
    sync();
}
KERNEL(go_around2) { go_around<2>(batch, y); }
KERNEL(go_around4) { go_around<4>(batch, y); }

// What one warp has waited for is complete for the other, by the cluster's barrier, but not visible.
KERNEL(told_by_the_barrier) {
    const u32 rank = cluster_rank();
    initialise();
    expect(1024);
    sync();
    fill(rank * 64, rank);
    if (threadIdx.x == 0) bulk_copy_to_cta(slot(rank * 64), 1024, rank ^ 1, barrier());
    __syncwarp();
    if (threadIdx.x < 32) mbarrier_wait(barrier(), 0);
    sync();
    if (batch == 0) mbarrier_wait(barrier(), 0);
    if (batch == 2 && threadIdx.x >= 32) store_shared_16(slot(rank * 64 + threadIdx.x), Vec16{});  // its source
    else load_shared_16(slot((rank ^ 1) * 64 + threadIdx.x));
}
// Both copy to the same place of a third.
KERNEL(collide) {
    initialise();
    expect(2048);
    if (cluster_rank() < 2) fill(0, 0);
    sync();
    if (cluster_rank() < 2 && threadIdx.x == 0) bulk_copy_to_cta(slot(0), 1024, 2, barrier());
    __syncwarp();
    if (cluster_rank() == 2) mbarrier_wait(barrier(), 0);
    sync();
}
// Only what waits for an mbarrier is ordered; the cluster's barrier orders nothing, even in a CTA.
KERNEL(alone_in_its_cluster) {
    store_shared_u32(dynamic_shared_memory() + threadIdx.x * 4, 1);
    if (batch == 0) __syncthreads();
    sync();
    load_shared_u32(dynamic_shared_memory() + (threadIdx.x ^ 32) * 4);
}

KERNEL(bad_use) {
    const u32 rank = cluster_rank();
    initialise();
    fill(0, 0);
    if (batch == 0) cluster_wait();
    cluster_arrive();
    if (batch == 1) cluster_arrive();
    cluster_wait();
    if (batch == 2) cluster_wait();
    if (batch == 3 && threadIdx.x % 2) cluster_arrive();
    if (batch == 3) cluster_wait();
    if (batch == 4 && rank == 0) sync();
    if (batch == 5 && threadIdx.x < 32) __syncthreads();
    if (batch == 5 && threadIdx.x >= 32) sync();
    if (batch == 6) bulk_copy_to_cta(slot(240), 512, rank ^ 1, barrier());
    if (batch == 7) bulk_copy_to_cta(slot(0) + 8, 512, rank ^ 1, barrier());
    if (batch == 8) bulk_copy_to_cta(slot(0), 24, rank ^ 1, barrier());
    if (batch == 9) bulk_copy_to_cta(slot(0), 0, rank ^ 1, barrier());
    if (batch == 10) bulk_copy_to_cta(slot(0), 512, 2, barrier());
    if (batch == 11) bulk_copy_to_cta(slot(0), 512, rank, barrier());
    if (batch == 12 && rank == 1 && threadIdx.x < 32) cp_async_16(slot(threadIdx.x), x, true);
    if (batch == 12) sync();
    if (batch == 12 && rank == 0 && threadIdx.x == 0) bulk_copy_to_cta(slot(0), 1024, 1, barrier());
    if (batch == 13 && rank == 0 && threadIdx.x == 0) bulk_copy_to_cta(slot(0) - 128, 1024, 1, barrier());
    sync();
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def expect_error(message: str, launch: Launch, library: HostLibrary, symbol: str, case: int, **changes: Any) -> None:
    for seed in range(8):
        for completion in ("late", "random"):
            with pytest.raises(EmulatorError, match=message):
                launch(library, symbol, batch=case, seed=seed, completion=completion, **changes)


@pytest.mark.parametrize(("cluster", "grid", "threads"), [(2, 2, 32), (2, 6, 96), (4, 8, 64), (16, 16, 64)])
def test_slices_reach_every_cta(library: HostLibrary, launch: Launch, cluster: int, grid: int, threads: int) -> None:
    row = cluster * threads
    numbers = (np.arange(row) + 32) % row
    ranks = numbers // threads
    for seed in range(2 if cluster == 16 else 8):
        y = launch(
            library,
            f"exchange{cluster}",
            grid=grid,
            cluster=cluster,
            threads=threads,
            shared_bytes=128 + 32 * row,
            y_words=4 * grid * row,
            seed=seed,
            completion=("late", "random")[seed % 2],
        )
        seen = y.view(np.uint32).reshape(grid // cluster, cluster, row, 4)
        for first, of_cluster in zip(range(0, grid, cluster), seen, strict=True):
            wanted = np.stack([numbers, np.full(row, 2 if cluster == 16 else 4), ranks, first + ranks], axis=1)
            np.testing.assert_array_equal(of_cluster, np.broadcast_to(wanted, of_cluster.shape))


def test_the_largest_cluster_runs(library: HostLibrary, launch: Launch) -> None:
    shape = {"grid": 16, "cluster": 16, "threads": 256, "shared_bytes": 131072 + 128}
    launch(library, "exchange16", **shape, y_words=16 * 4096 * 4)


def test_copies_are_handed_over(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        for case in (0, 4, 7):
            for completion in ("late", "random"):
                y = launch(library, "hand_over", **PAIR, batch=case, seed=seed, completion=completion)
                seen = y.view(np.uint32)[: 64 * 4].reshape(64, 4)
                np.testing.assert_array_equal(seen, [(7, i, 0, 0) for i in range(64)])


def test_a_copy_comes_after_all_that_its_sender_knows(library: HostLibrary, launch: Launch) -> None:
    for cluster in (2, 4):
        for seed in range(10):
            shape = {"grid": cluster, "cluster": cluster, "threads": 64, "completion": ("late", "random")[seed % 2]}
            y = launch(library, f"go_around{cluster}", **shape, seed=seed)
            seen = y.view(np.uint32)[: 64 * 4].reshape(64, 4)
            np.testing.assert_array_equal(seen[:, 0], cluster - 1)


def test_the_barrier_tells_that_copies_are_complete(library: HostLibrary, launch: Launch) -> None:
    for seed in range(10):
        for case in (0, 2):
            # In case 2, warp 0 has waited for what it reads.
            launch(library, "told_by_the_barrier", **PAIR, batch=case, seed=seed)
    expect_error(
        "different warps must be .* after a bulk copy wrote it .*; wait for the phase of the mbarrier that counts",
        *(launch, library, "told_by_the_barrier", 1),
        **PAIR,
    )


def test_the_barrier_orders_no_accesses(library: HostLibrary, launch: Launch) -> None:
    launch(library, "alone_in_its_cluster", threads=64)
    expect_error("race on shared memory", launch, library, "alone_in_its_cluster", 1, threads=64)


COME_AFTER = (
    r"race on shared memory: a copy to another CTA must come after what that has done there, but in kernel \w+, block "
    r"\d, thread \d+, bulk_copy_to_cta at kernel.cu:\d+ writes byte \d+ of shared memory of block \d.* after "
)
IN_FLIGHT = "touched while an asynchronous copy to it is in flight, .* which thread %s copies to at kernel.cu"


@pytest.mark.parametrize(
    ("symbol", "case", "message"),
    [
        (
            "exchange4",
            1,
            r"a CTA must pass a barrier of its cluster before it copies to another or arrives there, .* kernel "
            r"exchange4, block \d, thread \d, calls bulk_copy_to_cta for block \d at kernel.cu:\d+ before any; call "
            r"cluster_arrive",
        ),
        (
            "exchange4",
            2,
            rf"{IN_FLIGHT % r'[0-2] of block .'}|after a bulk copy wrote it|while a copy to another CTA may read it"
            rf"|{COME_AFTER}",
        ),
        (
            "exchange4",
            3,
            rf"{IN_FLIGHT % r'[0-2]( of block .)?'}|while a copy to another CTA may read it|{COME_AFTER}"
            "|after a bulk copy wrote",
        ),
        (
            "exchange4",
            4,
            r"fence_proxy_async after it has written what bulk_copy_to_cta reads, .* thread [0-2], bulk_copy_to_cta at "
            r".* reads byte \d+ of shared memory, which .*, which thread \d+ wrote at kernel.cu:\d+ without; add",
        ),
        (
            "exchange4",
            5,
            r"different warps must be separated by __syncthreads .* bulk_copy_to_cta at .* reads .* after thread \d+ w"
            r"|fence_proxy_async|while a copy to another CTA may read it",
        ),
        (
            "exchange4",
            6,
            r"must not end before all copies from its shared memory are known to be complete, but kernel exchange4, "
            r"block \d ends without knowing so of the one to block \d that thread [0-2] started at kernel.cu:\d+; call",
        ),
        (
            "hand_over",
            1,
            r"must not end before all copies to its shared memory have landed.*(block 0, thread 33, .* has ended|"
            r"block 1 ends without waiting for the one that thread 33 of block 0 started at kernel.cu:\d+; call mb)",
        ),
        ("hand_over", 2, r"must not end before all copies from its shared memory .* to block 1 that thread 33 started"),
        (
            "hand_over",
            3,
            r"must not be written while a copy to another CTA may read it, .* block 0, .* store_shared_16 at .* writes "
            r"byte \d+ .*, which thread 33 of block 0 copies to block 1 at kernel.cu:\d+; wait first for that CTA",
        ),
        ("hand_over", 5, rf"{IN_FLIGHT % '33 of block 0'}|after a bulk copy wrote it|{COME_AFTER}"),
        (
            "hand_over",
            6,
            rf"{IN_FLIGHT % '33 of block 0'}|after a bulk copy wrote it|{COME_AFTER}thread \d+ of block 1",
        ),
        ("hand_over", 8, "every byte of a bulk copy must be expected by the mbarrier that counts it"),
        ("hand_over", 9, r"deadlocks in the cluster of block 0: .* lacks 0 of 1 arrivals and 1024 bytes"),
        (
            "hand_over",
            10,
            r"counted by an mbarrier of that CTA, .* byte 0 of .* block 1, which lacks its mbarrier_init_fence; call"
            r"|block 1, .* without mbarrier_init_fence",
        ),
        ("hand_over", 11, "byte 0 of the shared memory of block 1, (where none is|whose fence no phase comes after)"),
        ("hand_over", 12, "byte 64 of the shared memory of block 1, where none is; call mbarrier_init"),
        ("go_around2", 1, rf"{COME_AFTER}.* of block 0 (read|wrote)|{IN_FLIGHT % '40 of block 1'}"),
        ("go_around2", 2, rf"{COME_AFTER}.* of block 0 (read|wrote)|{IN_FLIGHT % '40 of block 1'}"),
        ("go_around2", 3, rf"{COME_AFTER}.* of block 0 read|{IN_FLIGHT % '40 of block 1'}|after a bulk copy wrote"),
        ("go_around2", 4, rf"{COME_AFTER}.* of block 0 (read|wrote)|{IN_FLIGHT % '40 of block 1'}"),
        ("go_around2", 6, rf"{COME_AFTER}.* of block 0 read|{IN_FLIGHT % '40 of block 1'}|after a bulk copy wrote"),
        ("collide", 0, rf"{COME_AFTER}a bulk copy of block 2 wrote|{IN_FLIGHT % '0( of block [01])?'}"),
    ],
    ids=[
        *("no first barrier", "no wait", "one buffer", "no fence", "no syncthreads", "no last barrier"),
        *("receiver ends", "sender ends", "source overwritten", "read early", "written early", "too few bytes"),
        *("too many bytes", "no init fence", "initialised late", "no mbarrier", "no wait before", "another's wait"),
        *("read late", "barrier in place of a wait", "no syncthreads before", "two of one place"),
    ],
)
def test_what_copies_do_not_order_is_an_error(
    library: HostLibrary, launch: Launch, symbol: str, case: int, message: str
) -> None:
    shape = FOUR if symbol in ("exchange4", "collide") else PAIR
    expect_error(message, launch, library, symbol, case, **shape)


def test_what_was_written_before_a_copy_is_overwritten_by_one(library: HostLibrary, launch: Launch) -> None:
    launch(library, "go_around2", **PAIR, batch=5)


def test_an_early_end_is_noticed_whoever_is_first(library: HostLibrary, launch: Launch) -> None:
    messages = set()
    for seed in range(40):
        with pytest.raises(EmulatorError) as caught:
            launch(library, "hand_over", **PAIR, batch=1, seed=seed)
        messages.add("block 1 ends without waiting" in str(caught.value))
    assert messages == {False, True}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, "must arrive at the cluster's barrier before it waits .* warp [01], waits at .* after 0 arrivals"),
        (1, "must wait for the cluster's barrier before it arrives again, .* after 1 arrivals and 0 waits"),
        (2, "must arrive at the cluster's barrier before it waits .* after 1 arrivals and as many"),
        (3, r"all 32 lanes of a warp must reach the same collective together, .* cluster_(arrive|wait) at"),
        (
            4,
            r"every thread of a cluster must arrive at every phase .* deadlocks in the cluster of block [02]: block "
            r"[02]'s threads 0-63 wait at kernel.cu:\d+ for phase 2 of the cluster's barrier, block [13]'s threads "
            r"0-63 have exited; let all threads",
        ),
        (5, r"every thread of a cluster must .* block [02]'s threads 0-31 wait at .*, block [02]'s threads 32-63 wait"),
        (6, r"bulk_copy_to_cta must stay inside the CTA's shared memory, .* reads 512 bytes at byte 3968 of shared"),
        (7, r"bulk_copy_to_cta must use an address that is a multiple of 16, .* byte 136 of shared memory"),
        (8, r"bulk_copy_to_cta must copy a positive multiple of 16 bytes, .* copies 24; pad the tile"),
        (9, r"bulk_copy_to_cta must copy a positive multiple of 16 bytes, .* copies 0; pad the tile"),
        (10, r"must get the rank of a CTA of the cluster, which has 2, .* passes 2; correct the rank"),
        (
            11,
            r"must get the rank of another CTA of the cluster, which has 2, .* passes [01], its own; correct the rank",
        ),
        (12, r"bulk_copy_to_cta at .* writes .* of block [13], which has .*, which thread \d+ of block [13] copies to"),
        (13, r"an initialised mbarrier must be touched by mbarrier functions only, .* bulk_copy_to_cta at"),
    ],
)
def test_misuse_of_a_cluster(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    expect_error(message, launch, library, "bad_use", case, **{**PAIR, "grid": 4})


@pytest.mark.parametrize(
    ("cluster", "grid", "message"),
    [
        (0, 4, "cluster must be from 1 to 16, but got cluster=0"),
        (17, 17, "cluster must be from 1 to 16, but got cluster=17"),
        (4, 6, "cluster must divide grid, but got cluster=4 and grid=6"),
    ],
)
def test_illegal_clusters(library: HostLibrary, launch: Launch, cluster: int, grid: int, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        launch(library, "hand_over", grid=grid, cluster=cluster)


def test_a_plan_says_how_ctas_are_grouped(library: HostLibrary) -> None:
    kernel = SimpleNamespace(symbol="exchange4", **FOUR)
    program = cast(Program, SimpleNamespace(kernels=(kernel,), workspace_bytes=0))
    y = np.zeros(4 * 256 * 8, np.float16)
    library.launch(program, np.zeros(8, np.float16), np.zeros(16, np.uint8), y, batch=0)
    np.testing.assert_array_equal(y.view(np.uint32).reshape(4, 256, 4)[3, :, 0], (np.arange(256) + 32) % 256)


@pytest.mark.skipif(env.nvrtc_version() is None, reason="needs CuPy and NVRTC")
def test_the_gpus_header_compiles(make_source: Callable[[str], Any]) -> None:
    source = make_source(TEXT[: TEXT.index("// What one warp has waited for")])
    cubin = compile_cubin(Source(source.text, source.headers, "cluster"), "sm_90a")
    assert {"exchange4", "hand_over"} <= set(cubin.resources)
