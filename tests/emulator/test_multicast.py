"""Copies to several CTAs at once and arrivals at each other's mbarriers: right uses pass, each misuse is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kgen import env
from kgen.compile import compile_cubin
from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError
from kgen.render import Source

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

STEPS, STAGES, PART = 7, 2, 256

# Every CTA loads its part of each step for all; all read all parts. Bits of `batch` change one step. Barriers lie at
# the front of shared memory, the slots behind.
TEXT = """
constexpr int STEPS = 7, STAGES = 2, CONSUMERS = 2, PART = 256;
#define UNLESS(bit) if (!(batch >> bit & 1))
#define IF(bit) if (batch >> bit & 1)

__device__ inline void sync() {
    cluster_arrive();
    cluster_wait();
}
__device__ inline Barrier* barrier(int i = 0) { return reinterpret_cast<Barrier*>(dynamic_shared_memory()) + i; }
__device__ inline Barrier* full(int slot) { return barrier(slot); }
__device__ inline Barrier* empty(int slot) { return barrier(STAGES + slot); }
__device__ inline unsigned char* slot(u32 i) { return dynamic_shared_memory() + 128 + i * 16; }
__device__ inline void initialise(u32 arrivals, bool fenced = true) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            mbarrier_init(full(i), 1);
            mbarrier_init(empty(i), arrivals);
        }
        if (fenced) mbarrier_init_fence();
    }
    __syncthreads();
}

template <u32 Cluster>
__device__ inline void produce(int batch, const unsigned char* weights) {
    const u32 rank = cluster_rank(), lane = threadIdx.x % 32, bytes = Cluster * PART;
    for (int step = 0; step < STEPS; ++step) {
        const int at = step % STAGES;
        UNLESS(0) mbarrier_wait(empty(at), (step / STAGES & 1) ^ 1);
        if (lane) continue;
        u32 ctas = (1u << Cluster) - 1;
        IF(7) ctas -= 1u << (rank + 1) % Cluster;
        mbarrier_arrive_expect(full(at), bytes - (batch >> 8 & 1) * 16 + (batch >> 9 & 1) * 16);
        bulk_copy_multicast(slot(at * bytes / 16 + rank * PART / 16), weights + (step * Cluster + rank) * PART, PART,
                            full(at), ctas);
    }
    IF(10) for (int step = STEPS; step < STEPS + STAGES; ++step)
        mbarrier_wait(empty(step % STAGES), (step / STAGES & 1) ^ 1);
}

template <u32 Cluster>
__device__ inline void consume(int batch, f16* y) {
    const u32 lane = threadIdx.x % 32, vectors = Cluster * PART / 16;
    u32 next = (blockIdx.x * CONSUMERS + threadIdx.x / 32 - 1) * STEPS * vectors;
    for (int step = 0; step < STEPS; ++step, next += vectors) {
        const int at = step % STAGES;
        UNLESS(4) mbarrier_wait(full(at), step / STAGES & 1);
        IF(5) if (lane < Cluster) mbarrier_arrive_at(empty(at), lane);
        for (u32 i = lane; i < vectors; i += 32)
            store_global_16(y + (next + i) * 8, load_shared_16(slot(at * vectors + i)));
        UNLESS(6) __syncwarp();
        if ((batch >> 1 & 3) && lane == 0) mbarrier_arrive(empty(at));  // of its own CTA only
        if (!(batch >> 1 & 3) && !(batch >> 5 & 1) && lane < Cluster) mbarrier_arrive_at(empty(at), lane);
    }
}

template <u32 Cluster>
__device__ inline void share(int batch, const unsigned char* weights, f16* y) {
    initialise(CONSUMERS * ((batch >> 2 & 1) ? 1 : Cluster));
    sync();
    if (threadIdx.x < 32) produce<Cluster>(batch, weights);
    else consume<Cluster>(batch, y);
    UNLESS(3) sync();
}
KERNEL(share2) { share<2>(batch, weights, y); }
KERNEL(share4) { share<4>(batch, weights, y); }

// The same of two CTAs, who multiply what they share by wgmma.
KERNEL(multiply) {
    const u32 rank = cluster_rank(), bytes = 1024;
    initialise(8);
    sync();
    if (threadIdx.x >= 128) {
        for (int step = 0; step < STEPS; ++step) {
            const int at = step % STAGES;
            mbarrier_wait(empty(at), (step / STAGES & 1) ^ 1);
            if (threadIdx.x != 128) continue;
            mbarrier_arrive_expect(full(at), bytes);
            bulk_copy_multicast(slot(at * 64 + rank * 32), weights + step * bytes + rank * 512, 512, full(at), 3);
        }
    } else {
        const u32 one = pack<f16>(1.0f, 1.0f), a[4] = {one, one, one, one};
        float d[4][4] = {};
        for (int step = 0; step < STEPS; ++step) {
            const int at = step % STAGES;
            mbarrier_wait(full(at), step / STAGES & 1);
            wgmma_fence();
            wgmma<f16, true>(d, a, wgmma_descriptor(slot(at * 64), 128, 256));
            wgmma_commit();
            IF(0) if (threadIdx.x % 32 < 2) mbarrier_arrive_at(empty(at), threadIdx.x % 32);
            wgmma_wait<0>();
            UNLESS(0) if (threadIdx.x % 32 < 2) mbarrier_arrive_at(empty(at), threadIdx.x % 32);
        }
        Vec16 out;
        for (int i = 0; i < 4; ++i) out.word[i] = pack<f16>(d[i][0], d[i][1]);
        store_global_16(y + (blockIdx.x * 128 + threadIdx.x) * 8, out);
    }
    sync();
}

// CTA 1 reads what CTA 0 then overwrites by a copy, once it has been told.
KERNEL(tell) {
    const u32 rank = cluster_rank(), via = batch == 6 || batch == 7 ? 2 : 0;
    const bool first = threadIdx.x % 32 == 0;
    initialise(2);
    store_shared_16(slot(threadIdx.x), Vec16{});
    if (threadIdx.x == 0 && (rank == 1 || batch == 8)) mbarrier_arrive_expect(full(0), 1024);
    __syncthreads();
    sync();
    if (rank == 1) {
        if (batch != 1) load_shared_16(slot(threadIdx.x ^ 1));
        if (batch != 2) __syncwarp();
        if (batch == 8) __syncthreads();
        if (batch == 8 && threadIdx.x == 0) bulk_copy_multicast(slot(64), weights, 1024, full(0), 1);
        if (first) mbarrier_arrive_at(empty(0), via);
        if (batch == 1) load_shared_16(slot(threadIdx.x ^ 1));
        if (batch == 3) sync();  // of no use
        mbarrier_wait(full(0), 0);
        store_global_16(y + threadIdx.x * 8, load_shared_16(slot(threadIdx.x)));
    } else if (rank == 2) {
        if (batch == 6) mbarrier_wait(empty(0), 0);
        if (first && via == 2) mbarrier_arrive_at(empty(0), 0);
    } else if (rank == 0) {
        if (batch == 3) sync();
        else if (batch == 8) mbarrier_wait(full(0), 0);
        else if (batch != 4 && batch != 5 || threadIdx.x < 32) mbarrier_wait(empty(0), 0);
        if (batch == 5) __syncthreads();
        if (threadIdx.x == 40) bulk_copy_multicast(slot(0), weights, 1024, full(0), 2);
    }
    if (batch == 3 && rank > 1) sync();
    sync();
}

KERNEL(bad_use) {
    const u32 rank = cluster_rank();
    const bool one = rank == 0 && threadIdx.x == 40;
    if (batch == 9 && rank == 1) {
        cluster_arrive();
        initialise(1);
        cluster_wait();
    } else {
        initialise(1, batch != 8 || rank == 0);
        if (batch != 10 && batch != 11) sync();
    }
    if (batch == 0 && one) bulk_copy_multicast(slot(0), weights, 512, full(0), 0);
    if (batch == 1 && one) bulk_copy_multicast(slot(0), weights, 512, full(0), 6);
    if (batch == 2 && one) bulk_copy_multicast(slot(0) + 8, weights, 512, full(0), 3);
    if (batch == 3 && one) bulk_copy_multicast(slot(0), weights + 8, 512, full(0), 3);
    if (batch == 4 && one) bulk_copy_multicast(slot(0), weights, 24, full(0), 3);
    if (batch == 5 && one) bulk_copy_multicast(slot(0), weights + 4096 - 256, 512, full(0), 2);
    if (batch == 6 && one) bulk_copy_multicast(slot(240), weights, 512, full(0), 2);
    if (batch == 7 && one) mbarrier_arrive_at(empty(0), 2);
    if (batch >= 8 && batch <= 10 && one) mbarrier_arrive_at(empty(0), 1);
    if (batch == 11 && one) bulk_copy_multicast(slot(0), weights, 512, full(0), 3);
    if (batch == 12 && one) bulk_copy_multicast(slot(0), weights, 512, barrier(8), 2);
    if (batch == 13 && one) bulk_copy_multicast(slot(0), weights, 512, barrier(8), 1);
    if (batch == 14 && one) bulk_copy_multicast(slot(0) - 128, weights, 512, full(0), 2);
    if (batch == 15 && one) mbarrier_arrive_at(empty(0) + 4, 1);
    if (batch == 16 && rank == 1 && threadIdx.x == 0) mbarrier_arrive_expect(full(0), 64);
    if (batch == 16) sync();
    if (batch == 16 && one) mbarrier_arrive_at(full(0), 1);
    if (batch == 17 && one) mbarrier_arrive_at(empty(0), 1);
    if (batch == 18 && one) bulk_copy_multicast(slot(0), weights, 512, full(0), 2);
    if (batch == 18 && rank == 1 && threadIdx.x == 0) mbarrier_arrive_expect(full(0), 512);
    if (batch == 19 && one) bulk_copy_multicast(slot(0), weights, 512, full(0), 1);
    if (batch == 19 && one) mbarrier_arrive_expect(full(0), 512);
    if (batch != 17) sync();
}

// Without other CTAs it is a bulk copy.
KERNEL(alone) {
    initialise(1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full(0), 1024);
        bulk_copy_multicast(slot(0), weights, 1024, full(0), 1);
        mbarrier_arrive_at(empty(0), 0);
    }
    __syncwarp();
    mbarrier_wait(full(0), 0);
    mbarrier_wait(empty(0), 0);
    store_global_16(y + threadIdx.x * 8, load_shared_16(slot(threadIdx.x)));
}
"""

WEIGHTS = np.random.default_rng(3).integers(0, 256, 8 * STEPS * PART, dtype=np.uint8)
MUTATIONS = {
    "no wait for an empty slot": 0,
    "arrival in the own CTA only": 1,
    "and counted so": 2,
    "no wait for a full slot": 4,
    "arrival before the reads": 5,
    "no __syncwarp after them": 6,
    "a copy that leaves one out": 7,
    "too few bytes": 8,
    "too many bytes": 9,
}


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def schedules(count: int) -> list[dict[str, Any]]:
    return [{"seed": seed, "completion": completion} for seed in range(count) for completion in ("late", "random")]


def expect_error(message: str, launch: Launch, library: HostLibrary, symbol: str, case: int, **changes: Any) -> None:
    for schedule in schedules(8):
        with pytest.raises(EmulatorError, match=message):
            launch(library, symbol, batch=case, **schedule, **changes)


def share(library: HostLibrary, launch: Launch, cluster: int, **changes: Any) -> bool:
    """Whether all consumers of two clusters have seen all parts of all steps."""
    grid, row = 2 * cluster, STEPS * cluster * PART
    y = launch(
        library,
        f"share{cluster}",
        **{"grid": grid, "cluster": cluster, "threads": 96, "weights": WEIGHTS, **changes},
        shared_bytes=128 + STAGES * cluster * PART,
        y_words=grid * 2 * row // 4,
    )
    return bool((y.view(np.uint8).reshape(-1, row) == WEIGHTS[:row]).all())


@pytest.mark.parametrize("cluster", [2, 4])
@pytest.mark.parametrize("batch", [0, 1 << 10, 1 << 10 | 1 << 3], ids=["barrier", "barrier and waits", "waits"])
def test_all_get_what_each_loads(library: HostLibrary, launch: Launch, cluster: int, batch: int) -> None:
    for schedule in schedules(20):
        assert share(library, launch, cluster, batch=batch, **schedule), schedule


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("cluster", [2, 4])
@pytest.mark.parametrize("bit", MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_step_is_an_error(
    library: HostLibrary, launch: Launch, cluster: int, bit: int, completion: str
) -> None:
    for seed in range(10):
        with pytest.raises(EmulatorError):
            share(library, launch, cluster, batch=1 << bit, seed=seed, completion=completion)


ENDS_EARLY = (
    r"must not end before all (arrivals at its mbarriers are known to be in, .* ends without knowing so of that of "
    r"thread \d+ of block \d at kernel.cu:\d+ on the barrier at byte (16|24) of shared memory; call mbarrier_wait|"
    r".* and all arrivals there are in, .* calls mbarrier_arrive_at at .* for block \d, which has ended; let that wait)"
)
COME_AFTER = (
    r"race on shared memory: a copy to another CTA must come after what that has done there, but in kernel \w+, block "
    r"\d, thread \d+, bulk_copy_multicast at kernel.cu:\d+ writes byte \d+ of shared memory of block \d.* after "
)
IN_FLIGHT = r"touched while an asynchronous copy to it is in flight, .* which thread \d+( of block \d)? copies to"


@pytest.mark.parametrize(
    ("bit", "message"),
    [
        (0, rf"{COME_AFTER}|{IN_FLIGHT}|race on shared memory: .* bulk_copy_multicast at .* writes|no more arrivals"),
        (
            1,
            r"deadlocks in the cluster of block [02]: .*block \d's threads 0-31 wait at kernel.cu:\d+ for phase 0 "
            r"\(parity 0\) of the mbarrier at byte 16 of shared memory, which lacks 2 of 4 arrivals and 0 bytes",
        ),
        (2, rf"{COME_AFTER}|{IN_FLIGHT}"),
        (3, ENDS_EARLY),
        (7, r"deadlocks in .* lacks 0 of 1 arrivals and 256 bytes"),
        (8, r"every byte of a bulk copy must be expected by the mbarrier that counts it, .* of block \d are in and"),
        (9, r"deadlocks in .* lacks 0 of 1 arrivals and 16 bytes"),
    ],
)
def test_what_a_changed_step_is_called(library: HostLibrary, launch: Launch, bit: int, message: str) -> None:
    for schedule in schedules(10):
        with pytest.raises(EmulatorError, match=message):
            share(library, launch, 2, batch=1 << bit, **schedule)


def test_copies_come_after_wgmma(library: HostLibrary, launch: Launch) -> None:
    b = np.random.default_rng(4).integers(-3, 3, (STEPS, 4, 2, 8, 8)).astype(np.float16)  # core matrices
    columns = b.astype(np.float64).sum(axis=(0, 2, 4)).astype(np.float16).reshape(4, 4, 2)  # tile, pair, column
    shape = {"grid": 2, "cluster": 2, "threads": 160, "weights": b.view(np.uint8).ravel()}
    for schedule in schedules(10):
        y = launch(library, "multiply", **shape, **schedule)
        seen = y[: 2 * 128 * 8].reshape(-1, 4, 4, 2)  # rows, pair, tile, column
        np.testing.assert_array_equal(seen, np.broadcast_to(columns.transpose(1, 0, 2), seen.shape))
    message = r"race on shared memory: .* bulk_copy_multicast at .* after a wgmma of warp|while a wgmma reads it"
    expect_error(message, launch, library, "multiply", 1, **shape)


@pytest.mark.parametrize("case", [0, 5, 6], ids=["direct", "through another warp", "through another CTA"])
def test_an_arrival_tells_of_reads(library: HostLibrary, launch: Launch, case: int) -> None:
    shape = {"grid": 4, "cluster": 4, "threads": 64, "weights": WEIGHTS}
    for schedule in schedules(10):
        y = launch(library, "tell", batch=case, **shape, **schedule)
        np.testing.assert_array_equal(y.view(np.uint8)[:1024], WEIGHTS[:1024])


@pytest.mark.parametrize(
    "case",
    [1, 2, 3, 4, 7, 8],
    ids=[
        "reads after it",
        "no __syncwarp",
        "the cluster's barrier",
        "another warp's wait",
        "CTA that knows not",
        "copy",
    ],
)
def test_without_one_a_copy_races_with_reads(library: HostLibrary, launch: Launch, case: int) -> None:
    message = rf"{COME_AFTER}(thread|warp) \d+ of block 1 (read|wrote)|{IN_FLIGHT}|after a bulk copy wrote it"
    shape = {"grid": 4, "cluster": 4, "threads": 64, "shared_bytes": 128 + 2048}
    expect_error(message, launch, library, "tell", case, **shape)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            0,
            r"must get a mask of CTAs of the cluster, which has 2, .* block [02], thread 40, at .* passes 0; set bit r",
        ),
        (1, r"must get a mask of CTAs of the cluster, which has 2, .* passes 0x6; set bit r for each rank r that"),
        (2, r"bulk_copy_multicast must use an address that is a multiple of 16, .* byte 136 of shared memory"),
        (3, r"bulk_copy_multicast must use an address that is a multiple of 16, .* byte 8 of weights"),
        (4, r"bulk_copy_multicast must copy a positive multiple of 16 bytes, .* copies 24; pad the tile"),
        (5, r"bulk_copy_multicast must stay inside one of the kernel's arrays, .* byte 3840 of weights"),
        (6, r"bulk_copy_multicast must stay inside the CTA's shared memory, .* byte 3968 of shared memory"),
        (
            7,
            r"mbarrier_arrive_at must get the rank of a CTA of the cluster, which has 2, .* passes 2; correct the rank",
        ),
        (8, r"or an arrival there must be counted by .* block [13], which lacks its mbarrier_init_fence; call"),
        (9, r"or an arrival there must .* of block [13], (where none is|whose fence no phase comes after); call"),
        (
            10,
            r"a CTA must pass a barrier of its cluster before it .* arrives there, .* calls mbarrier_arrive_at for bl",
        ),
        (11, r"a CTA must pass a barrier of its cluster before it .* calls bulk_copy_multicast for block [13] at"),
        (12, r"must be counted by .* bulk_copy_multicast at .* names byte 64 of .* block [13], where none is; call"),
        (
            13,
            r"an mbarrier must be initialised before its use, .* calls bulk_copy_multicast on byte 64 of shared memory",
        ),
        (14, r"an initialised mbarrier must be touched by mbarrier functions only, .* bulk_copy_multicast at"),
        (15, r"or an arrival there must be .* mbarrier_arrive_at at .* names byte 48 of the .* block [13], where none"),
        (
            16,
            r"no more arrivals than its count, .* block [02], thread 40 arrives at kernel.cu:\d+ on the barrier at "
            r"byte 0 of shared memory of block [13], whose phase 0 has its 1 already and waits for 64 bytes; correct",
        ),
        (17, ENDS_EARLY),
        (
            18,
            r"must not end before all copies to its shared memory have landed, .* block [13] ends without waiting for "
            r"the one that thread 40 of block [02] started at",
        ),
    ],
)
def test_misuse(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    expect_error(message, launch, library, "bad_use", case, grid=4, cluster=2, threads=64)


def test_a_copy_that_nobody_waits_for_is_an_error(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match=r"a kernel must wait for all its bulk copies, .* 512 bytes on their way"):
        launch(library, "bad_use", batch=19, grid=2, cluster=2, threads=64)


def test_a_cta_alone_copies_to_itself(library: HostLibrary, launch: Launch) -> None:
    for schedule in schedules(5):
        y = launch(library, "alone", threads=64, weights=WEIGHTS, **schedule)
        np.testing.assert_array_equal(y.view(np.uint8)[:1024], WEIGHTS[:1024])


@pytest.mark.skipif(env.nvrtc_version() is None, reason="needs CuPy and NVRTC")
def test_the_gpus_headers_compile(make_source: Callable[[str], Any]) -> None:
    source = make_source(TEXT)
    cubin = compile_cubin(Source(source.text, source.headers, "multicast"), "sm_90a")
    assert {"share2", "share4", "tell"} <= set(cubin.resources)
