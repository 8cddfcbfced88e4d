"""mbarriers, the copies they count, and what they order: right uses pass, each misuse is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

# Barriers lie at byte 1024, data below. Each kernel's `batch` chooses a case.
TEXT = """
__device__ inline Barrier* barrier(int i = 0) {
    return reinterpret_cast<Barrier*>(dynamic_shared_memory() + 1024) + i;
}
__device__ inline void initialise(u32 first, u32 second = 1) {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(0), first);
        mbarrier_init(barrier(1), second);
        mbarrier_init_fence();
    }
    __syncthreads();
}

// Warp 0 writes, warp 1 reads; who arrives and waits is the case.
KERNEL(hand_over) {
    unsigned char* const shared = dynamic_shared_memory();
    initialise(batch == 1 ? 32 : 1);
    if (threadIdx.x < 32) {
        store_shared_u32(shared + threadIdx.x * 4, threadIdx.x + 7);
        if (batch != 1 && batch != 2) __syncwarp();
        if (batch == 1 || threadIdx.x == 5) mbarrier_arrive(barrier(batch == 3));
        if (batch == 4) store_shared_u32(shared + threadIdx.x * 4, 1);
    } else {
        if (batch != 5) mbarrier_wait(barrier(batch == 3), batch == 6);
        const u32 v = load_shared_u32(shared + (threadIdx.x ^ 33) % 32 * 4);
        store_global_16(y + (threadIdx.x - 32) * 8, Vec16{{v, 0, 0, 0}});
    }
}
// Lanes of one warp hand over through a barrier that all of them arrive on.
KERNEL(within_a_warp) {
    initialise(32);
    store_shared_u32(dynamic_shared_memory() + threadIdx.x * 4, threadIdx.x);
    mbarrier_arrive(barrier());
    if (batch == 0) mbarrier_wait(barrier(), 0);
    load_shared_u32(dynamic_shared_memory() + (threadIdx.x ^ 1) * 4);
}
// What warp 0 wrote reaches warp 2 through warp 1.
KERNEL(through_another) {
    initialise(1);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == 0) store_shared_u32(dynamic_shared_memory() + lane * 4, lane);
    if (warp == 1 && batch == 0) mbarrier_wait(barrier(0), 0);
    if (warp == 2) {
        mbarrier_wait(barrier(1), 0);
        load_shared_u32(dynamic_shared_memory() + (lane ^ 1) * 4);
    }
    __syncwarp();
    if (warp < 2 && lane == 0) mbarrier_arrive(barrier(warp));
}

KERNEL(copies) {
    unsigned char* const shared = dynamic_shared_memory();
    initialise(batch == 1 ? 2 : 1);
    const int bytes = 512;
    if (threadIdx.x == 32) {
        if (batch == 1) bulk_copy(shared, weights, 256, barrier());  // before it is expected
        mbarrier_arrive_expect(barrier(), batch == 2 ? 256 : batch == 1 ? 256 : bytes);
        if (batch == 1) mbarrier_arrive_expect(barrier(), 256);
        bulk_copy(shared + (batch == 1) * 256, weights + (batch == 1) * 256, bytes - (batch == 1) * 256, barrier());
        if (batch == 3) load_shared_16(shared);
        if (batch == 4) store_shared_u32(shared + 508, 0);
    }
    if (batch == 5 || batch == 3 || batch == 4) return;
    if (threadIdx.x < 32) {
        mbarrier_wait(barrier(), 0);
        store_global_16(y + threadIdx.x * 8, load_shared_16(shared + threadIdx.x * 16));
    } else if (batch == 6) {
        for (int i = 0; i < 8; ++i) __syncwarp();
        load_shared_16(shared);  // the thread that copied does not know when that is done
    }
}
KERNEL(bad_copy) {
    initialise(1);
    unsigned char* const shared = dynamic_shared_memory();
    const int to = batch == 0 ? 8 : batch == 1 ? 1040 : 0, from = batch == 2 ? 8 : batch == 3 ? 4096 - 16 : 0;
    const int bytes = batch == 4 ? 24 : batch == 5 ? 0 : 32;
    if (threadIdx.x == 0) bulk_copy(shared + to, weights + from, bytes, barrier());
}
KERNEL(bad_use) {
    unsigned char* const shared = dynamic_shared_memory();
    Barrier* const odd = reinterpret_cast<Barrier*>(shared + 4);
    if (batch == 0) mbarrier_arrive(barrier());
    if (batch == 1) mbarrier_wait(barrier(), 0);
    if (batch == 2) mbarrier_init(odd, 1);
    if (batch == 3) mbarrier_init(reinterpret_cast<Barrier*>(shared + 4096), 1);
    if (batch == 4) mbarrier_init(barrier(), 0);
    initialise(2);
    if (batch == 5) mbarrier_arrive(odd);
    if (batch == 6 && threadIdx.x == 0) mbarrier_init(barrier(), 2);
    if (batch == 7) load_shared_u32(shared + 1024);
    if (batch == 8) store_shared_u32(shared + 1028, 0);
    if (batch == 9) mbarrier_wait(barrier(threadIdx.x % 2), 1);
    if (batch == 10) mbarrier_wait(barrier(), 2);
    if (batch == 11) mbarrier_arrive_expect(barrier(), 1 << 20);
    if (batch == 12 && threadIdx.x == 3) mbarrier_arrive_expect(barrier(), 64), mbarrier_arrive(barrier());
    if (batch == 12 && threadIdx.x == 4) mbarrier_arrive(barrier());
    if (batch == 13 && threadIdx.x < 4) mbarrier_arrive(barrier());
    if (batch == 13 && threadIdx.x < 32) mbarrier_wait(barrier(), 0);
    if (batch == 14 && threadIdx.x == 0) mbarrier_arrive_expect(barrier(), 64), mbarrier_arrive(barrier());
    if (batch == 15 && threadIdx.x == 32) mbarrier_init(barrier(), 2);
    if (batch == 15) mbarrier_wait(barrier(), 0);
}
KERNEL(bad_initialisation) {
    if (threadIdx.x == 0) mbarrier_init(barrier(), 64);
    if (batch == 0 && threadIdx.x == 1) mbarrier_init_fence();  // of another thread
    if (batch == 1) {
        __syncthreads();
        if (threadIdx.x == 0) mbarrier_init_fence();  // too late
    }
    if (batch == 0) __syncthreads();
    mbarrier_arrive(barrier());
}
// Two rounds of 32 arrivals by warp 0; warp 1 looks on.
KERNEL(phases) {
    initialise(32);
    if (threadIdx.x < 32) {
        mbarrier_arrive(barrier());
        mbarrier_wait(barrier(), 0);
        mbarrier_wait(barrier(), 0);  // again: that phase has ended
        mbarrier_arrive(barrier());
        mbarrier_wait(barrier(), 1);
    }
    if (batch == 0) __syncthreads();
    if (batch < 2 && threadIdx.x >= 32) mbarrier_wait(barrier(), 1);  // phase 1, known by __syncthreads only
}
// Warp 0 ends two phases; warp 1 waits for the first.
KERNEL(overtaken) {
    initialise(1);
    if (threadIdx.x < 32) {
        if (threadIdx.x == 0) mbarrier_arrive(barrier());
        if (batch == 0) mbarrier_wait(barrier(1), 0);
        if (batch == 1) __syncthreads();
        if (threadIdx.x == 0) mbarrier_arrive(barrier());
    } else {
        mbarrier_wait(barrier(), 0);
        if (batch == 0 && threadIdx.x == 63) mbarrier_arrive(barrier(1));
        if (batch == 1) __syncthreads();
    }
}
KERNEL(deadlock) {
    initialise(3, 2);
    if (threadIdx.x < 64 && threadIdx.x % 32 == 0) mbarrier_arrive_expect(barrier(), 48);
    if (threadIdx.x < 64) mbarrier_wait(barrier(), 0);
    else if (threadIdx.x < 96) mbarrier_wait(barrier(1), 0);
    else if (threadIdx.x < 128) __syncthreads();
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def test_an_arrival_hands_over_what_was_written(library: HostLibrary, launch: Launch) -> None:
    for seed in range(20):
        for case in (0, 1, 3):
            y = launch(library, "hand_over", threads=64, batch=case, seed=seed).view(np.uint32)[:128].reshape(32, 4)
            np.testing.assert_array_equal(y[:, 0], (np.arange(32) ^ 1) + 7)
        launch(library, "within_a_warp", seed=seed)
        launch(library, "through_another", threads=96, seed=seed)


@pytest.mark.parametrize(
    ("symbol", "case"),
    [
        ("hand_over", 2),
        ("hand_over", 4),
        ("hand_over", 5),
        ("hand_over", 6),
        ("within_a_warp", 1),
        ("through_another", 1),
    ],
    ids=["no syncwarp", "written after the arrival", "no wait", "parity", "no wait within a warp", "no wait between"],
)
def test_what_was_not_handed_over_races(library: HostLibrary, launch: Launch, symbol: str, case: int) -> None:
    for seed in range(10):
        threads = {"hand_over": 64, "within_a_warp": 32, "through_another": 96}[symbol]
        with pytest.raises(
            EmulatorError, match=r"race on shared memory: .* by (__syncthreads or an mb|__syncw)|in turn"
        ):
            launch(library, symbol, threads=threads, batch=case, seed=seed)


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("case", [0, 1])
def test_bulk_copy_copies(library: HostLibrary, launch: Launch, case: int, completion: str) -> None:
    weights = np.random.default_rng(1).integers(0, 256, 4096).astype(np.uint8)
    for seed in range(10):
        y = launch(library, "copies", threads=64, weights=weights, batch=case, seed=seed, completion=completion)
        np.testing.assert_array_equal(y.view(np.uint8)[:512], weights[:512])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (2, r"every byte of a bulk copy must be expected .* 256 bytes were copied or are on their way that none"),
        (3, r"copy to it is in flight, .* reads byte 0 .* thread 32 copies to at kernel.cu:\d+ .* call mbarrier_wait"),
        (4, r"copy to it is in flight, .* writes byte 508 "),
        (
            5,
            r"must wait for all its bulk copies, .* barrier at byte 1024 .* has 512 bytes on their way and expects 512",
        ),
        (6, r"copy to it is in flight|after a bulk copy wrote it at .* wait for the phase of the mbarrier that counts"),
    ],
)
def test_wrong_bulk_copies(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    for seed in range(5):
        with pytest.raises(EmulatorError, match=message):
            launch(library, "copies", threads=64, batch=case, seed=seed)


def test_a_copy_that_landed_early_is_not_known_to_who_did_not_wait(library: HostLibrary, launch: Launch) -> None:
    messages = set()
    for seed in range(40):
        with pytest.raises(EmulatorError) as caught:
            launch(library, "copies", threads=64, batch=6, seed=seed, completion="random")
        messages.add("a bulk copy wrote it" in str(caught.value))
    assert messages == {False, True}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, "bulk_copy must use an address that is a multiple of 16, .* byte 8 of shared memory"),
        (1, "bulk_copy must stay inside the CTA's shared memory"),
        (2, "multiple of 16, .* byte 8 of weights"),
        (3, "bulk_copy must stay inside one of the kernel's arrays"),
        (4, "bulk_copy must copy a positive multiple of 16 bytes, .* copies 24"),
        (5, "bulk_copy must copy a positive multiple of 16 bytes, .* copies 0"),
    ],
)
def test_illegal_bulk_copies(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        launch(library, "bad_copy", batch=case, shared_bytes=1048)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, "must be initialised before its use, .* calls mbarrier_arrive on byte 1024 of shared memory"),
        (1, "must be initialised before its use, .* calls mbarrier_wait"),
        (2, "mbarrier_init must use an address that is a multiple of 8"),
        (3, "mbarrier_init must stay inside the CTA's shared memory"),
        (4, r"must count from 1 to 1048575 arrivals, .* asks for 0"),
        (5, "mbarrier_arrive must use an address that is a multiple of 8"),
        (6, r"must be initialised once, .* byte 1024 .* which was initialised at kernel.cu:\d+;"),
        (7, "must be touched by mbarrier functions only, .* load_shared_u32 .* reads byte 1024"),
        (8, "must be touched by mbarrier functions only, .* writes byte 1028"),
        (9, "all lanes of a warp must wait for the same phase of the same mbarrier"),
        (10, "mbarrier_wait must get parity 0 or 1, .* passes 2"),
        (11, "must expect at most 1048575 bytes at a time, .* makes that 1048576"),
        (12, "no more arrivals than its count, .* phase 0 has its 2 already and waits for 64 bytes"),
        (13, "wait for every phase of an mbarrier in turn, .* may mean phase 2, two after"),
        (14, "must wait for all its bulk copies, .* has 0 bytes on their way and expects 64"),
        (15, "must be initialised once"),
    ],
)
def test_misuse_of_a_barrier(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    for seed in range(4):
        with pytest.raises(EmulatorError, match=message):
            launch(library, "bad_use", threads=64, batch=case, seed=seed)


@pytest.mark.parametrize(
    ("case", "lacks"),
    [(0, "mbarrier_init_fence"), (1, "__syncthreads"), (2, "(mbarrier_init_fence|must be initialised)")],
)
def test_initialisation_must_be_made_visible(library: HostLibrary, launch: Launch, case: int, lacks: str) -> None:
    for seed in range(4):
        with pytest.raises(EmulatorError, match=rf"{lacks}"):
            launch(library, "bad_initialisation", threads=64, batch=case, seed=seed)


def test_phases_follow_each_other(library: HostLibrary, launch: Launch) -> None:
    for seed in range(20):
        launch(library, "phases", threads=64, seed=seed)
        launch(library, "phases", threads=64, seed=seed, batch=2)


OVERTAKEN = r"for every phase of an mbarrier in turn|before warp 1 is done with its wait at kernel.cu:\d+; let"


def test_parity_alone_does_not_tell_a_phase_from_the_second_before_it(library: HostLibrary, launch: Launch) -> None:
    messages = set()
    for seed in range(20):  # without __syncthreads, phase 1 may be the one before phase 0
        with pytest.raises(EmulatorError, match=OVERTAKEN) as caught:
            launch(library, "phases", threads=64, seed=seed, batch=1)
        messages.add("in turn" in str(caught.value))
    assert messages == {True, False}, "the wait came too early, and too late"


@pytest.mark.parametrize("case", [0, 1], ids=["an arrival after the wait", "__syncthreads after the wait"])
def test_a_phase_may_end_once_the_one_before_it_has_been_seen(library: HostLibrary, launch: Launch, case: int) -> None:
    for seed in range(20):
        launch(library, "overtaken", threads=64, batch=case, seed=seed)


def test_a_wait_that_two_phases_may_overtake_is_an_error_in_every_order(library: HostLibrary, launch: Launch) -> None:
    messages = set()
    for seed in range(20):
        with pytest.raises(EmulatorError, match=OVERTAKEN) as caught:
            launch(library, "overtaken", threads=64, batch=2, seed=seed)
        messages.add("in turn" in str(caught.value))
    assert messages == {True, False}, "the wait came after both phases, and before the second had ended"


def test_deadlock_names_barriers_and_what_they_lack(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError) as caught:
        launch(library, "deadlock", threads=160)
    text = str(caught.value)
    assert "every wait must be met by all the arrivals and bytes that its phase counts" in text
    assert (
        "for phase 0 (parity 0) of the mbarrier at byte 1024 of shared memory, which lacks 1 of 3 arrivals and 96 bytes"
        in text
    )
    assert "threads 64-95 wait at" in text and "byte 1032 of shared memory, which lacks 2 of 2 arrivals and 0" in text
    assert "threads 96-127 wait at kernel.cu:" in text and "threads 128-159 have exited" in text
