"""A producer/consumer ring on mbarriers is right under every schedule, and without any one step it is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]
Completion = Literal["late", "random"]

STEPS, STAGES, COLUMNS = 7, 3, 32
A_BYTES, B_BYTES = 64 * 32, COLUMNS * 32
SHARED_BYTES = STAGES * (A_BYTES + B_BYTES) + 512 + 64 * 32 + 8 * (4 * STAGES + 1)

# y = (sum over steps of A[step] B[step]) C: A by cp.async from one warp, B by bulk copies from another, C by plain
# stores of a consumer warp; the sums go back as a wgmma's A through shared memory. Bits of `batch` change one step.
TEXT = """
constexpr int STEPS = 7, STAGES = 3, COLUMNS = 32, A_BYTES = 64 * 32, B_BYTES = COLUMNS * 32;
constexpr int B = STAGES * A_BYTES, C = B + STAGES * B_BYTES, SUMS = C + 512, BARRIERS = SUMS + 64 * 32;
#define UNLESS(bit) if (!(batch >> bit & 1))
#define IF(bit) if (batch >> bit & 1)

struct Barriers {
    Barrier a_full[STAGES], a_empty[STAGES], b_full[STAGES], b_empty[STAGES], ready;
};

__device__ inline void load_b(unsigned char* shared, Barriers& barriers, const unsigned char* weights, int batch) {
    for (int step = 0; step < STEPS; ++step) {
        const int slot = step % STAGES;
        UNLESS(0) mbarrier_wait(&barriers.b_empty[slot], (step / STAGES & 1) ^ 1);
        if (threadIdx.x % 32) continue;
        IF(1) mbarrier_arrive(&barriers.b_full[slot]);
        else UNLESS(2) mbarrier_arrive_expect(&barriers.b_full[slot], B_BYTES + (batch >> 3 & 1) * 16);
        UNLESS(4) bulk_copy(shared + B + slot * B_BYTES, weights + step * B_BYTES, B_BYTES, &barriers.b_full[slot]);
    }
}

__device__ inline void load_a(unsigned char* shared, Barriers& barriers, const f16* x, int batch) {
    for (int step = 0; step < STEPS; ++step) {
        const int slot = step % STAGES;
        UNLESS(5) mbarrier_wait(&barriers.a_empty[slot], (step / STAGES & 1) ^ 1);
        for (int i = threadIdx.x % 32; i < A_BYTES / 16; i += 32)
            cp_async_16(shared + slot * A_BYTES + i * 16, x + (step * A_BYTES / 16 + i) * 8, true);
        cp_async_commit();
        UNLESS(6) cp_async_wait<0>();
        UNLESS(7) mbarrier_arrive(&barriers.a_full[slot]);
    }
}

__device__ inline void consume(unsigned char* shared, Barriers& barriers, const f16* x, f16* y, int batch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float d[COLUMNS / 8][4] = {};
    u32 a[2][4];
    for (int step = 0; step < STEPS; ++step) {
        const int slot = step % STAGES, parity = (batch >> 8 & 1) ? 0 : step / STAGES & 1;
        UNLESS(9) mbarrier_wait(&barriers.a_full[slot], parity);
        ldmatrix_x4(a[step % 2], shared + slot * A_BYTES + (warp * 16 + lane % 16) * 32 + lane / 16 * 16);
        UNLESS(10) __syncwarp();
        UNLESS(11) if (lane == 0) mbarrier_arrive(&barriers.a_empty[slot]);
        UNLESS(12) mbarrier_wait(&barriers.b_full[slot], parity);
        UNLESS(13) wgmma_fence();
        wgmma<f16, true>(d, a[step % 2], wgmma_descriptor(shared + B + slot * B_BYTES, 128, 256));
        UNLESS(14) wgmma_commit();
        UNLESS(15) wgmma_wait<1>();
        const int done = (batch >> 16 & 1) ? step : step - 1;  // the group that the wait leaves is still reading
        UNLESS(17) if (done >= 0 && lane == 0) mbarrier_arrive(&barriers.b_empty[done % STAGES]);
    }
    UNLESS(18) wgmma_wait<0>();
    // Only the first 16 columns of the sums go on, as rows of A in core matrices.
    unsigned char* const own = shared + SUMS + warp * 512 + lane / 4 * 16 + lane % 4 * 4;
    for (int i = 0; i < 4; ++i)
        store_shared_u32(own + i / 2 * 128 + i % 2 * 256, pack<f16>(d[i / 2][i % 2 * 2], d[i / 2][i % 2 * 2 + 1]));
    if (warp == 2)
        for (int i = 0; i < 4; ++i)
            store_shared_u32(shared + C + lane * 16 + i * 4, load_global_16(x + (STEPS * 128 + lane) * 8).word[i]);
    UNLESS(19) fence_proxy_async();
    UNLESS(20) __syncwarp();
    UNLESS(21) if (lane == 0) mbarrier_arrive(&barriers.ready);
    UNLESS(22) mbarrier_wait(&barriers.ready, 0);
    float e[2][4];
    UNLESS(23) wgmma_fence();
    wgmma<f16, false>(e, wgmma_descriptor(shared + SUMS, 128, 256), wgmma_descriptor(shared + C, 128, 256));
    UNLESS(24) wgmma_commit();
    UNLESS(25) wgmma_wait<0>();
    Vec16 out;
    for (int i = 0; i < 4; ++i) out.word[i] = pack<f16>(e[i / 2][i % 2 * 2], e[i / 2][i % 2 * 2 + 1]);
    store_global_16(y + threadIdx.x * 8, out);
}

KERNEL(ring) {
    unsigned char* const shared = dynamic_shared_memory();
    Barriers& barriers = *reinterpret_cast<Barriers*>(shared + BARRIERS);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            mbarrier_init(&barriers.a_full[i], 32);
            mbarrier_init(&barriers.a_empty[i], 4);
            mbarrier_init(&barriers.b_full[i], 1);
            mbarrier_init(&barriers.b_empty[i], 4);
        }
        UNLESS(26) mbarrier_init(&barriers.ready, 4);
        UNLESS(27) mbarrier_init_fence();
    }
    UNLESS(28) __syncthreads();
    const int warp = threadIdx.x / 32;
    if (warp < 4) {
        raise_registers<240>();
        consume(shared, barriers, x, y, batch);
    } else {
        lower_registers<24>();
        if (warp == 4) load_b(shared, barriers, weights, batch);
        if (warp == 5) load_a(shared, barriers, x, batch);
    }
}
"""

MUTATIONS = {
    "no wait before a bulk copy": 0,
    "arrival without expected bytes": 1,
    "no arrival of the bulk copies": 2,
    "too many expected bytes": 3,
    "no bulk copy": 4,
    "no wait before cp.async": 5,
    "arrival before cp.async lands": 6,
    "no arrival of cp.async": 7,
    "parity that never flips": 8,
    "no wait for cp.async": 9,
    "elected arrival without __syncwarp": 10,
    "no arrival after ldmatrix": 11,
    "no wait for bulk copies": 12,
    "no wgmma_fence": 13,
    "no wgmma_commit": 14,
    "no wait for the wgmma before": 15,
    "arrival before the wgmma's wait": 16,
    "no arrival after wgmma": 17,
    "no last wgmma_wait": 18,
    "no fence_proxy_async": 19,
    "elected arrival after stores without __syncwarp": 20,
    "no arrival after stores": 21,
    "no wait for stores": 22,
    "no fence of a second group": 23,
    "no commit of a second group": 24,
    "no wait for a second group": 25,
    "no initialisation": 26,
    "no mbarrier_init_fence": 27,
    "no __syncthreads after it": 28,
}
# Not here, for a CPU cannot tell: wgmma_pin (there is no compiler to hold back), the shares of registers (there are no
# registers to share), and a wgmma_fence that stands before the last access of registers instead of after it (accesses
# of registers are not seen, only what they hold when a wgmma is issued and when it is waited for).


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def core_matrices(rows: Array) -> Array:
    """Rows of 16 elements as core matrices: blocks of 8 rows, each with its two halves along k."""
    return rows.reshape(-1, 8, 2, 8).transpose(0, 2, 1, 3).ravel()


A, B, C = (
    np.random.default_rng(6).integers(-3, 3, shape).astype(np.float16)
    for shape in ((STEPS, 64, 16), (STEPS, COLUMNS, 16), (16, 16))
)


def run(library: HostLibrary, launch: Launch, seed: int, completion: Completion, batch: int = 0) -> bool:
    """Whether y is right."""
    y = launch(
        library,
        "ring",
        x=np.concatenate([A.ravel(), core_matrices(C)]),
        weights=core_matrices(B).view(np.uint8),
        threads=256,
        shared_bytes=SHARED_BYTES,
        grid=2,
        batch=batch,
        seed=seed,
        completion=completion,
        time_limit_s=20.0,
    )
    sums = np.einsum("smk,snk->mn", A.astype(np.float64), B.astype(np.float64))[:, :16].astype(np.float16)
    expected = (sums.astype(np.float64) @ C.astype(np.float64).T).astype(np.float16)
    lanes = y[: 128 * 8].reshape(4, 8, 4, 2, 2, 2)  # warp, row, column pair, tile, half, column
    got = lanes.transpose(0, 4, 1, 3, 2, 5).reshape(64, 16)
    return bool((got == expected).all())


@pytest.mark.parametrize("completion", ["late", "random"])
def test_ring_is_right_under_every_schedule(library: HostLibrary, launch: Launch, completion: Completion) -> None:
    for seed in range(50):
        assert run(library, launch, seed, completion), seed


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("bit", MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_step_is_caught(library: HostLibrary, launch: Launch, bit: int, completion: Completion) -> None:
    caught = 0
    for seed in range(10):
        try:
            caught += not run(library, launch, seed, completion, 1 << bit)
        except EmulatorError:
            caught += 1
    assert caught
