"""Illegal accesses, races, divergence and deadlocks are errors with the thread's coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import ArrayError, EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

TEXT = """
__device__ inline u32 peek(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_shared<u32>(p, "peek", site);
}

// `batch` is a byte offset or a choice.
KERNEL(read_x) { load_global_16(reinterpret_cast<const char*>(x) + batch); }
KERNEL(write_x) { store_global_16(const_cast<f16*>(x), Vec16{}); }
KERNEL(write_weights) { store_global_16(const_cast<unsigned char*>(weights) + batch, Vec16{}); }
KERNEL(write_y) {
    if (threadIdx.x == 3 && blockIdx.x == 1) store_global_16(reinterpret_cast<char*>(y) + batch, Vec16{});
}
KERNEL(write_hidden) { store_global_16(hidden, Vec16{}); }
KERNEL(read_shared) { peek(dynamic_shared_memory() + batch); }
KERNEL(write_shared) { store_shared_u32(dynamic_shared_memory() + batch, 1); }
KERNEL(read_matrix) {
    u32 r[4];
    ldmatrix_x4(r, dynamic_shared_memory() + (threadIdx.x == 7 ? batch : 0));
}
KERNEL(write_matrix) {
    const u32 r[4] = {};
    stmatrix_x4(dynamic_shared_memory() + (threadIdx.x == 7 ? batch : threadIdx.x % 8 * 16), r);
}
KERNEL(copy_from) {
    cp_async_16(dynamic_shared_memory() + threadIdx.x * 16, reinterpret_cast<const char*>(x) + batch, true);
}
KERNEL(narrow_copy_from) {
    cp_async_8(dynamic_shared_memory() + threadIdx.x * 8, reinterpret_cast<const char*>(x) + batch, true);
}
KERNEL(narrow_copy_to) { cp_async_8(dynamic_shared_memory() + batch, x, true); }
KERNEL(copy_to) { cp_async_16(dynamic_shared_memory() + batch, x, true); }
KERNEL(skip_copy) {
    cp_async_16(dynamic_shared_memory() + threadIdx.x * 16, reinterpret_cast<const char*>(x) + batch, false);
}

KERNEL(race) {
    unsigned char* shared = dynamic_shared_memory();
    if (batch == 0) {  // write, then read by another warp
        store_shared_u32(shared + threadIdx.x * 4, 1);
        peek(shared + (threadIdx.x ^ 32) * 4);
    } else if (batch == 1) {  // read, then write by another warp
        peek(shared + (threadIdx.x ^ 32) * 4);
        store_shared_u32(shared + threadIdx.x * 4, 1);
    } else if (batch == 2) {  // two writes
        store_shared_u32(shared + threadIdx.x % 32 * 4, 1);
    } else if (batch == 3) {  // within a warp
        store_shared_u32(shared + threadIdx.x * 4, 1);
        peek(shared + (threadIdx.x ^ 1) * 4);
    } else if (batch == 4) {  // ldmatrix, then write by another warp
        u32 r[4];
        ldmatrix_x4(r, shared + threadIdx.x % 32 * 16);
        __syncwarp();
        store_shared_u32(shared + threadIdx.x * 4, 1);
    } else if (batch == 5) {  // read by both warps, then written by one
        peek(shared);
        __syncwarp();
        if (threadIdx.x == 0) store_shared_u32(shared, 1);
    } else if (batch == 6) {  // a shuffle does not make a write visible
        store_shared_u32(shared + threadIdx.x * 4, 1);
        __shfl_sync(~0u, 0, 0);
        peek(shared + (threadIdx.x ^ 1) * 4);
    } else if (batch == 7) {  // nor does ldmatrix
        u32 r[4];
        store_shared_u32(shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 16, 1);
        ldmatrix_x4(r, shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 16);
    } else if (batch == 8) {  // nor does it let another lane write what it has read
        u32 r[4];
        ldmatrix_x4(r, shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 16);
        store_shared_u32(shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 4, 2);
    } else if (batch == 9) {  // stmatrix, then read by another lane
        const u32 r[4] = {};
        stmatrix_x4(shared + threadIdx.x * 16, r);
        peek(shared + (threadIdx.x ^ 1) * 16);
    }
}
KERNEL(no_race) {
    unsigned char* shared = dynamic_shared_memory();
    for (int i = 0; i < 3; ++i) {
        store_shared_u32(shared + threadIdx.x * 4, 1);
        __syncwarp();
        peek(shared + (threadIdx.x ^ 1) * 4);
        __syncthreads();
        peek(shared + (threadIdx.x ^ 32) * 4);
        peek(shared);
        __syncthreads();
    }
    u32 r[4];
    ldmatrix_x4(r, shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 16);
    __syncwarp();
    store_shared_u32(shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 4, 2);
    __syncwarp();
    ldmatrix_x4(r, shared + threadIdx.x / 32 * 512 + threadIdx.x % 32 * 16);
}
KERNEL(in_flight) {
    unsigned char* shared = dynamic_shared_memory();
    cp_async_16(shared + threadIdx.x * 16, x, true);
    if (batch != 4) cp_async_commit();
    if (batch == 0) peek(shared + threadIdx.x * 16);
    if (batch == 1) store_shared_u32(shared + threadIdx.x * 16, 0);
    if (batch == 2) cp_async_16(shared + threadIdx.x * 16, x, true);
    if (batch == 3) { cp_async_wait<1>(); load_shared_16(shared + threadIdx.x * 16); }
    if (batch == 4) { cp_async_wait<0>(); load_shared_16(shared + threadIdx.x * 16); }
    if (batch == 5) { cp_async_wait<0>(); load_shared_16(shared + (threadIdx.x ^ 1) * 16); }
}

KERNEL(skips_barrier) {
    if (threadIdx.x / 32 != 2) __syncthreads();
}
KERNEL(exits_early) {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
KERNEL(diverges) {
    u32 r[4];
    if (threadIdx.x < 16) ldmatrix_x4(r, dynamic_shared_memory());
    else __syncwarp();
}
KERNEL(half_a_warp) { if (threadIdx.x < 16) __syncwarp(0xffff); }
KERNEL(traps) { if (threadIdx.x == 9) __trap(); }
KERNEL(never_ends) { for (;;) __syncthreads(); }
KERNEL(never_ends_alone) { if (threadIdx.x < 32) for (;;) __syncwarp(); }
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


@pytest.mark.parametrize(
    ("symbol", "offset", "message"),
    [
        ("read_x", 64, "load_global_16 must stay inside .* reads 16 bytes at byte 64 of x, which has 64 bytes"),
        ("read_x", -4, "byte -4 of x"),
        ("read_x", 2, "load_global_16 must use an address that is a multiple of 16"),
        ("write_x", 0, "store_global_16 must not write to an input, .* byte 0 of x"),
        ("write_weights", 16, "must not write to an input, .* byte 16 of weights"),
        ("write_y", 120, "multiple of 16"),
        (
            "write_y",
            128,
            r"kernel write_y, block 1, thread 3, at kernel.cu:\d+ writes 16 bytes at byte 128 of y, which",
        ),
        ("write_hidden", 0, "a null pointer plus 0"),
        ("read_shared", 256, "peek must stay inside the CTA's shared memory, .* byte 256 of shared memory"),
        ("read_shared", -4, "byte -4 of shared memory"),
        ("read_shared", 6, "multiple of 4"),
        ("write_shared", 256, "writes 4 bytes at byte 256 of shared memory, which has 256 bytes"),
        ("read_matrix", 248, r"multiple of 16, .* thread 7, at kernel.cu:\d+ reads 16 bytes at byte 248 of"),
        ("read_matrix", 256, r"ldmatrix_x4 must stay inside .* thread 7,"),
        ("write_matrix", 248, r"multiple of 16, .* thread 7, at kernel.cu:\d+ writes 16 bytes at byte 248 of"),
        ("write_matrix", 256, r"stmatrix_x4 must stay inside .* thread 7,"),
        ("copy_from", 64, "cp_async_16 must stay inside one of the kernel's arrays"),
        ("copy_from", 8, "multiple of 16"),
        ("narrow_copy_from", 64, "cp_async_8 must stay inside one of the kernel's arrays"),
        ("narrow_copy_from", 4, "multiple of 8"),
        ("narrow_copy_to", 256, "cp_async_8 must stay inside the CTA's shared memory"),
        ("narrow_copy_to", 4, "multiple of 8"),
        ("copy_to", 256, "cp_async_16 must stay inside the CTA's shared memory"),
        ("copy_to", 4, "multiple of 16"),
    ],
)
def test_illegal_access_is_an_error(
    library: HostLibrary, launch: Launch, symbol: str, offset: int, message: str
) -> None:
    arrays = {"x": np.zeros(32, np.float16), "y": np.zeros(64, np.float16), "weights": np.zeros(64, np.uint8)}
    with pytest.raises(EmulatorError, match=message):
        launch(library, symbol, grid=2, shared_bytes=256, batch=offset, **arrays)


def test_last_legal_access_passes(library: HostLibrary, launch: Launch) -> None:
    x = np.zeros(32, np.float16)
    launch(library, "read_x", x=x, batch=48)
    launch(library, "copy_from", x=x, batch=48)
    launch(library, "write_y", grid=2, y=np.zeros(64, np.float16), batch=112)
    launch(library, "read_shared", shared_bytes=256, batch=252)


def test_copy_of_zeros_does_not_touch_its_source(library: HostLibrary, launch: Launch) -> None:
    launch(library, "skip_copy", batch=1 << 30)


def test_no_shared_memory_at_all(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match="shared memory, which has 0 bytes"):
        launch(library, "read_shared", shared_bytes=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("case", "barrier"),
    [(case, "__syncwarp" if case in (3, 6, 7, 8, 9) else "__syncthreads") for case in range(10)],
)
def test_race_is_an_error_for_every_seed(
    library: HostLibrary, launch: Launch, case: int, barrier: str, seed: int
) -> None:
    with pytest.raises(EmulatorError, match=rf"race on shared memory: .* put a {barrier} between"):
        launch(library, "race", threads=64, batch=case, seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_separated_accesses_are_no_race(library: HostLibrary, launch: Launch, seed: int) -> None:
    launch(library, "no_race", threads=64, grid=2, seed=seed)


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("case", range(5))
def test_touching_a_copy_in_flight_is_an_error(
    library: HostLibrary, launch: Launch, case: int, completion: str
) -> None:
    with pytest.raises(EmulatorError, match=r"copy to it is in flight, .* thread (\d+), .* which thread \1 copies to"):
        launch(library, "in_flight", batch=case, completion=completion)


def test_waiting_for_ones_own_copy_does_not_show_it_to_others(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match=r"in flight|race on shared memory"):
        launch(library, "in_flight", batch=5)


def test_unfinished_copies_are_dropped_at_the_end(library: HostLibrary, launch: Launch) -> None:
    launch(library, "in_flight", batch=6, grid=3)


def test_deadlock_names_who_waits_where(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError) as caught:
        launch(library, "skips_barrier", threads=128)
    text = str(caught.value)
    assert "skips_barrier deadlocks in block 0: threads 0-63 wait at kernel.cu:" in text
    assert "threads 64-95 have exited, threads 96-127 wait at" in text


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        ("exits_early", "thread 5 reaches the end of the kernel|while thread 5 waits in the end of the kernel"),
        ("diverges", "same collective together, .* (ldmatrix_x4|__syncwarp) at"),
        ("half_a_warp", "__syncwarp must name all 32 lanes .* mask 0x0000ffff"),
        ("traps", "must not trap, .* thread 9"),
    ],
)
def test_divergence_is_an_error(library: HostLibrary, launch: Launch, symbol: str, message: str) -> None:
    for seed in range(4):
        with pytest.raises(EmulatorError, match=message):
            launch(library, symbol, threads=64, seed=seed)


@pytest.mark.parametrize("symbol", ["never_ends", "never_ends_alone"])
def test_endless_loop_ends_at_the_time_limit(library: HostLibrary, launch: Launch, symbol: str) -> None:
    with pytest.raises(EmulatorError, match="within its time limit"):
        launch(library, symbol, threads=64, time_limit_s=0.2)


def test_library_works_after_errors(library: HostLibrary, launch: Launch) -> None:
    for _ in range(20):
        with pytest.raises(EmulatorError):
            launch(library, "exits_early", threads=1024)
    launch(library, "no_race", threads=64)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"threads": 48}, EmulatorError, "threads must be a multiple of 32"),
        ({"threads": 1056}, EmulatorError, "threads"),
        ({"grid": 0}, EmulatorError, "grid must be"),
        ({"shared_bytes": 6}, EmulatorError, "shared_bytes must be"),
        ({"completion": "early"}, EmulatorError, "completion must be"),
        ({"x": np.zeros(8, np.float32)}, ArrayError, "x must have elements of 1 or 2 bytes"),
        ({"weights": np.zeros((8, 8), np.uint8)[:, ::2]}, ArrayError, "weights must be C-contiguous"),
        ({"y": np.zeros(64, np.float16)[1:]}, ArrayError, "y must start at a multiple of 16 bytes"),
        ({"y": np.frombuffer(bytes(64), np.float16)}, ArrayError, "y must"),
    ],
)
def test_bad_arguments_are_errors(
    library: HostLibrary, launch: Launch, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        launch(library, "no_race", **changes)


def test_unknown_kernel_is_an_error(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match="has no absent"):
        launch(library, "absent")
