"""wgmma against NumPy, and each of its rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen.emulator import HostLibrary
from kgen.errors import CompileError, EmulatorError

Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

K = 32
A_BYTES = 64 * K * 2

# Shared memory: A (64 x 32), then B (N x 32), as core matrices: those along the rows are neighbours.
TEXT = """
constexpr int A_BYTES = 64 * 32 * 2;

__device__ inline void fill(const f16* x, const unsigned char* weights, int b_bytes) {
    unsigned char* const shared = dynamic_shared_memory();
    for (int i = threadIdx.x; i < (A_BYTES + b_bytes) / 16; i += blockDim.x) {
        const bool of_a = i < A_BYTES / 16;
        const Vec16 v = load_global_16(of_a ? static_cast<const void*>(x + i * 8) : weights + i * 16 - A_BYTES);
        for (int j = 0; j < 4; ++j) store_shared_u32(shared + i * 16 + j * 4, v.word[j]);
    }
}
// This lane's A fragment of k from 16 step on.
__device__ inline void load_a(u32 (&a)[4], int step) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    for (int i = 0; i < 4; ++i)
        a[i] = load_shared_u32(dynamic_shared_memory() + (2 * warp + i % 2) * 128 + (2 * step + i / 2) * 1024 +
                               lane / 4 * 16 + lane % 4 * 4);
}
__device__ inline u64 a_matrix() { return wgmma_descriptor(dynamic_shared_memory(), 1024, 128); }
template <int TILES>
__device__ inline u64 b_matrix() {
    return wgmma_descriptor(dynamic_shared_memory() + A_BYTES, TILES * 128, 128);
}

// y[thread] = its accumulators. Bits of `batch`: A from shared memory, two groups, add to ones.
template <class T, int TILES>
__device__ inline void multiply(const f16* x, const unsigned char* weights, f16* y, int batch) {
    fill(x, weights, TILES * 8 * 64);
    fence_proxy_async();
    __syncthreads();
    u32 a[2][4];
    load_a(a[0], 0);
    load_a(a[1], 1);
    float d[TILES][4];
    for (int i = 0; i < 4 * TILES; ++i) d[i / 4][i % 4] = 1.0f;
    const u64 b = b_matrix<TILES>();
    wgmma_pin(d);
    wgmma_pin(a);
    wgmma_fence();
    if (batch & 1) {
        if (batch & 4) wgmma<T, true>(d, a_matrix(), b);
        else wgmma<T, false>(d, a_matrix(), b);
    } else {
        if (batch & 4) wgmma<T, true>(d, a[0], b);
        else wgmma<T, false>(d, a[0], b);
    }
    if (batch & 2) {
        wgmma_commit();
        __syncwarp();
        wgmma_fence();
    }
    if (batch & 1) wgmma<T, true>(d, wgmma_advance(a_matrix(), 2048), wgmma_advance(b, TILES * 256));
    else wgmma<T, true>(d, a[1], wgmma_advance(b, TILES * 256));
    wgmma_commit();
    if (batch & 8) wgmma_wait<1>();
    else wgmma_wait<0>();
    for (int t = 0; t < TILES; ++t) {
        Vec16 v;
        for (int i = 0; i < 4; ++i) v.word[i] = __float_as_uint(d[t][i]);
        store_global_16(y + (threadIdx.x * TILES + t) * 8, v);
    }
    wgmma_wait<0>();
}
// A in swizzled rows of 128 bytes, of which it fills a quarter: 16 of k from unit 2 batch on. d as above.
KERNEL(swizzled) {
    unsigned char* const shared = dynamic_shared_memory();
    for (int i = threadIdx.x; i < 64 * 8; i += 128) {
        const int row = i / 8, unit = i % 8;
        const Vec16 v = unit / 2 == batch ? load_global_16(x + (row * 4 + unit % 2) * 8) : Vec16{};
        for (int j = 0; j < 4; ++j) store_shared_u32(shared + row * 128 + (unit ^ row % 8) * 16 + j * 4, v.word[j]);
    }
    for (int i = threadIdx.x; i < 64; i += 128)
        for (int j = 0; j < 4; ++j)
            store_shared_u32(shared + 8192 + i * 16 + j * 4, load_global_16(weights + i * 16).word[j]);
    fence_proxy_async();
    __syncthreads();
    float d[2][4];
    const u64 a = wgmma_swizzled_descriptor(shared);
    wgmma_fence();
    wgmma<f16, false>(d, wgmma_advance(a, batch * 32), wgmma_descriptor(shared + 8192, 256, 128));
    wgmma_commit();
    wgmma_wait<0>();
    for (int t = 0; t < 2; ++t) {
        Vec16 v;
        for (int i = 0; i < 4; ++i) v.word[i] = __float_as_uint(d[t][i]);
        store_global_16(y + (threadIdx.x * 2 + t) * 8, v);
    }
}
// The same bytes as 64 of k; A in shared memory.
KERNEL(e4m3_6) {
    fill(x, weights, 6 * 512);
    fence_proxy_async();
    __syncthreads();
    float d[6][4];
    wgmma_fence();
    wgmma<e4m3, false>(d, a_matrix(), b_matrix<6>());
    wgmma<e4m3, true>(d, wgmma_advance(a_matrix(), 2048), wgmma_advance(b_matrix<6>(), 6 * 256));
    wgmma_commit();
    wgmma_wait<0>();
    for (int t = 0; t < 6; ++t) {
        Vec16 v;
        for (int i = 0; i < 4; ++i) v.word[i] = __float_as_uint(d[t][i]);
        store_global_16(y + (threadIdx.x * 6 + t) * 8, v);
    }
}
KERNEL(f16_2) { multiply<f16, 2>(x, weights, y, batch); }
KERNEL(f16_6) { multiply<f16, 6>(x, weights, y, batch); }
KERNEL(bf16_32) { multiply<bf16, 32>(x, weights, y, batch); }

KERNEL(rules) {
    unsigned char* const shared = dynamic_shared_memory();
    fill(x, weights, 1024);
    if (batch != 1) fence_proxy_async();
    if (batch == 2 && threadIdx.x == 70) store_shared_u32(shared + 70 * 16, 0);
    Barrier* const barrier = reinterpret_cast<Barrier*>(shared + 8192);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (batch == 3 || batch == 4 || batch == 5) {
        if (batch == 5) fence_proxy_async();
        if (threadIdx.x == 9) cp_async_16(shared + A_BYTES, x, true), cp_async_commit(), cp_async_wait<0>();
        if (batch == 3 || (batch == 4 && threadIdx.x == 8)) fence_proxy_async();
        __syncthreads();
    }
    float d[4][4] = {};
    float (&low)[2][4] = *reinterpret_cast<float (*)[2][4]>(d);
    float (&high)[2][4] = *reinterpret_cast<float (*)[2][4]>(d + 1);
    u32 a[4];
    load_a(a, 0);
    const u64 b = b_matrix<2>();
    if (batch == 18 && threadIdx.x < 32) wgmma_fence();
    if (batch != 6) wgmma_fence();
    if (batch == 7) wgmma<f16, true>(low, a, wgmma_descriptor(shared + (threadIdx.x % 2) * 16, 128, 256));
    else if (batch == 8) wgmma<f16, true>(low, a, wgmma_descriptor(shared + 12160, 256, 128));
    else if (batch == 9) wgmma<f16, true>(low, a, 0);
    else if (batch == 10 || batch == 2) wgmma<f16, true>(low, a_matrix(), b);
    else wgmma<f16, true>(low, a, b);
    if (batch == 11) wgmma<f16, true>(high, a, b);
    if (batch == 12) return;
    wgmma_commit();
    if (batch == 13) return;
    if (batch == 14) low[1][2] = 3.0f;
    if (batch == 15) a[3] ^= 1;
    if (batch == 10 && threadIdx.x % 32 == 0) store_shared_u32(shared + threadIdx.x * 8, 1);
    if (batch == 16 && threadIdx.x == 77) store_shared_u32(shared + A_BYTES + 60, 1);
    if (batch == 17 && threadIdx.x == 77) cp_async_16(shared + A_BYTES + 64, x, true);
    if (batch == 19 && threadIdx.x == 0) bulk_copy(shared + A_BYTES + 256, weights, 32, barrier);
    if (batch == 20) wgmma_fence(), wgmma<f16, true>(low, a, b), wgmma_commit();
    wgmma_wait<0>();
    if (batch == 21 && threadIdx.x == 0) store_shared_u32(shared + A_BYTES, 1);
    __syncthreads();
    if (threadIdx.x == 0) store_shared_u32(shared + A_BYTES, 1);
}
KERNEL(descriptors) {
    unsigned char* const shared = dynamic_shared_memory();
    if (batch == 0) wgmma_descriptor(shared + 8, 128, 128);
    if (batch == 1) wgmma_descriptor(shared + 12288, 128, 128);
    if (batch == 2) wgmma_descriptor(shared, 24, 128);
    if (batch == 3) wgmma_descriptor(shared, 128, 1 << 18);
    if (batch == 4) wgmma_advance(wgmma_descriptor(shared, 128, 128), 8);
    if (batch == 5) wgmma_advance(wgmma_descriptor(shared + 16, 128, 128), (1 << 18) - 16);
    if (batch == 6) wgmma_descriptor(shared + (1 << 18), 128, 128);
    if (batch == 7) wgmma_swizzled_descriptor(shared + 128);
}
KERNEL(shares) {
    if (batch == 0 || threadIdx.x < 32) raise_registers<240>();
    if (batch == 0) lower_registers<24>();
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


def core_matrices(rows: Array) -> Array:
    return np.ascontiguousarray(rows.reshape(-1, 8, K // 8, 8).transpose(2, 0, 1, 3)).ravel()


def accumulators(y: Array, tiles: int) -> Array:
    """The 64 rows that the kernels store."""
    lanes = y.view(np.float32).reshape(4, 8, 4, tiles, 2, 2)  # warp, row, column pair, tile, half, column
    return lanes.transpose(0, 4, 1, 3, 2, 5).reshape(64, 8 * tiles)


def run(
    library: HostLibrary, launch: Launch, symbol: str, batch: int, seed: int, completion: str
) -> tuple[Array, Array]:
    """The kernel's product and NumPy's, of small integers, so that both are exact."""
    tiles, dtype = int(symbol.split("_")[1]), ml_dtypes.bfloat16 if symbol[0] == "b" else np.float16
    rng = np.random.default_rng(tiles)
    a, b = (rng.integers(-8, 8, (rows, K)).astype(dtype) for rows in (64, 8 * tiles))
    y = launch(
        library,
        symbol,
        x=core_matrices(a).view(np.float16),
        weights=core_matrices(b).view(np.uint8),
        threads=128,
        shared_bytes=A_BYTES + tiles * 512,
        y_words=128 * tiles * 4,
        batch=batch,
        seed=seed,
        completion=completion,
    )
    return accumulators(y, tiles), a.astype(np.float32) @ b.astype(np.float32).T + (1 if batch & 4 else 0)


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("symbol", ["f16_2", "f16_6", "bf16_32"])
def test_wgmma_multiplies(library: HostLibrary, launch: Launch, symbol: str, completion: str) -> None:
    for batch in range(8):
        got, expected = run(library, launch, symbol, batch, batch, completion)
        np.testing.assert_array_equal(got, expected)


def e4m3_product(library: HostLibrary, launch: Launch, a: Array, b: Array) -> Array:
    """A (64, 64) by B (48, 64), of e4m3 as bytes."""
    y = launch(
        library,
        "e4m3_6",
        x=core_matrices(a.view(np.uint16)).view(np.float16),
        weights=core_matrices(b.view(np.uint16)).view(np.uint8),
        threads=128,
        shared_bytes=A_BYTES + 6 * 512,
        y_words=128 * 6 * 4,
    )
    return accumulators(y, 6)


def test_e4m3_multiplies_twice_as_deep(library: HostLibrary, launch: Launch) -> None:
    rng = np.random.default_rng(8)
    a, b = (rng.integers(-8, 8, (rows, 64)).astype(ml_dtypes.float8_e4m3fn) for rows in (64, 48))
    expected = a.astype(np.float32) @ b.astype(np.float32).T
    np.testing.assert_array_equal(e4m3_product(library, launch, a.view(np.uint8), b.view(np.uint8)), expected)


def test_every_e4m3_is_widened(library: HostLibrary, launch: Launch) -> None:
    """Subnormals and both NaNs included: column n picks out k = n."""
    b = np.zeros((48, 64), ml_dtypes.float8_e4m3fn)
    b[np.arange(48), np.arange(48)] = 1
    every = np.concatenate([np.arange(256, dtype=np.uint8), np.zeros(64 * 48 - 256, np.uint8)]).reshape(48, 64).T
    a = np.pad(every[:, :48], ((0, 0), (0, 16)))
    expected = a[:, :48].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    nan = np.isnan(expected).any(axis=1)
    got = e4m3_product(library, launch, np.ascontiguousarray(a), b.view(np.uint8))
    assert nan.sum() >= 1 and np.isnan(got[nan]).all()
    np.testing.assert_array_equal(got[~nan], expected[~nan])


def test_swizzled_rows(library: HostLibrary, launch: Launch) -> None:
    rng = np.random.default_rng(9)
    a, b = (rng.integers(-8, 8, (rows, K)).astype(np.float16) for rows in (64, 16))
    arrays = {"x": a, "weights": core_matrices(b).view(np.uint8)}
    for part in range(4):
        y = launch(library, "swizzled", threads=128, shared_bytes=9216, batch=part, **arrays).view(np.float32)
        lanes = y[: 128 * 8].reshape(4, 8, 4, 2, 2, 2)
        expected = a[:, :16].astype(np.float32) @ b[:, :16].astype(np.float32).T
        np.testing.assert_array_equal(lanes.transpose(0, 4, 1, 3, 2, 5).reshape(64, 16), expected)
    with pytest.raises(EmulatorError, match=r"a multiple of 1024 bytes plus 0, 32, 64 or 96, .* reads A from byte 128"):
        launch(library, "swizzled", threads=128, shared_bytes=9216, batch=4, **arrays)


def test_accumulators_are_nan_until_their_last_group_is_waited_for(library: HostLibrary, launch: Launch) -> None:
    for batch in (8, 10):  # one group of which one may be pending; two on the same accumulators
        assert np.isnan(run(library, launch, "f16_2", batch, 0, "late")[0]).all()


def follow_rules(library: HostLibrary, launch: Launch, case: int, seed: int, completion: str) -> None:
    x, weights = np.ones(64 * K, np.float16), np.zeros(4096, np.uint8)
    launch(
        library,
        "rules",
        x=x,
        weights=weights,
        threads=128,
        shared_bytes=12288,
        batch=case,
        seed=seed,
        completion=completion,
    )


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize("case", [0, 3, 20], ids=["one group", "cp.async", "two groups"])
def test_legal_orders_pass(library: HostLibrary, launch: Launch, case: int, completion: str) -> None:
    for seed in range(10):
        follow_rules(library, launch, case, seed, completion)


@pytest.mark.parametrize("completion", ["late", "random"])
def test_a_wait_says_nothing_of_other_warps(library: HostLibrary, launch: Launch, completion: str) -> None:
    for seed in range(10):
        with pytest.raises(EmulatorError, match=r"while a wgmma reads it|race on shared memory"):
            follow_rules(library, launch, 21, seed, completion)


@pytest.mark.parametrize("completion", ["late", "random"])
@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            1,
            r"must call fence_proxy_async after .* wgmma at kernel.cu:\d+ reads .* which thread \d+ wrote",
        ),
        (2, r"must call fence_proxy_async .* byte 1120 .* which thread 70 wrote"),
        (4, r"must call fence_proxy_async .* byte 4096 .* which thread 9 wrote"),
        (5, r"must call fence_proxy_async .* byte 4096 .* which thread 9 wrote"),
        (6, r"first wgmma of a group must follow a wgmma_fence, .* warp \d"),
        (7, r"all lanes of a warpgroup must pass the same descriptors"),
        (8, r"wgmma must stay inside the CTA's shared memory, .* part of B from byte 12416 of 12288"),
        (9, r"wgmma must get descriptors that wgmma_descriptor made, .* passes 0x0 for B"),
        (10, r"must not be written while a wgmma reads it, .* thread \d+, store_shared_u32"),
        (11, r"same accumulators or separate ones, .* overlap in part"),
        (12, r"must commit every wgmma and wait for it, .* call wgmma_commit and wgmma_wait<0>"),
        (13, r"must wait for every wgmma, .* call wgmma_wait<0>"),
        (14, r"accumulators must not be written before wgmma_wait, .* thread \d+, has written"),
        (15, r"A register of the wgmma at kernel.cu:\d+ was modified in flight"),
        (16, r"must not be written while a wgmma reads it, .* thread 77, store_shared_u32 .* byte 4156|race on shared"),
        (17, r"must not be written while a wgmma reads it, .* thread 77, cp_async_16|race on shared|in flight"),
        (18, r"must execute the same wgmma functions and register shares, .* warp 0 and warp 1 differ"),
        (19, r"must not be written while a wgmma reads it, .* thread 0, bulk_copy|race on shared|in flight"),
    ],
)
def test_each_rule_is_enforced(library: HostLibrary, launch: Launch, case: int, message: str, completion: str) -> None:
    for seed in range(5):
        with pytest.raises(EmulatorError, match=message):
            follow_rules(library, launch, case, seed, completion)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (0, "wgmma_descriptor must use an address that is a multiple of 16"),
        (1, "wgmma_descriptor must stay inside the CTA's shared memory"),
        (2, "descriptor's along_k must be a multiple of 16 below 262144, .* passes 24 bytes to wgmma_descriptor"),
        (3, "descriptor's along_rows must be a multiple of 16 below 262144, .* passes 262144"),
        (4, "descriptor's advance must be a multiple of 16 .* passes 8 bytes to wgmma_advance"),
        (5, "descriptor's address must be a multiple of 16 below 262144, .* passes 262144 bytes to wgmma_advance"),
        (6, "descriptor's address must be a multiple of 16 below 262144, .* passes 262144 bytes to wgmma_descriptor"),
        (7, "wgmma_swizzled_descriptor must use an address that is a multiple of 1024"),
    ],
)
def test_descriptor_fields_are_checked(library: HostLibrary, launch: Launch, case: int, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        launch(library, "descriptors", batch=case, shared_bytes=300000 if case == 6 else 12288)


def test_wgmma_needs_whole_warpgroups(library: HostLibrary, launch: Launch) -> None:
    with pytest.raises(EmulatorError, match="need whole warpgroups of 4 warps"):
        launch(library, "f16_2", threads=64, shared_bytes=8192)


def test_register_shares(library: HostLibrary, launch: Launch, make_library: Callable[[str], HostLibrary]) -> None:
    launch(library, "shares", threads=128)
    with pytest.raises(EmulatorError, match="the same wgmma functions and register shares"):
        launch(library, "shares", threads=128, batch=1)
    with pytest.raises(CompileError, match="registers must be a multiple of 8 from 24 to 256"):
        make_library("KERNEL(shares) { lower_registers<100>(); }")
