"""Every emulated instruction against NumPy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen.emulator import HostLibrary

TEMPLATES = Path(__file__).parents[2] / "templates"
INCLUDE = Path(__file__).parents[2] / "kgen" / "emulator" / "include"
Array = np.ndarray[Any, Any]

# Each thread stores 4 words at y + 16 bytes * thread.
TEXT = """
__device__ inline void put(void* y, u32 a, u32 b, u32 c, u32 d) {
    Vec16 v = {{a, b, c, d}};
    store_global_16(static_cast<char*>(y) + (blockIdx.x * blockDim.x + threadIdx.x) * 16, v);
}
__device__ inline u32 word(const void* p, int i) {
    return load_global_16(static_cast<const u32*>(p) + i / 4 * 4).word[i % 4];
}

template <class T>
__device__ inline void multiply(const void* x, const void* weights, void* y) {
    int lane = threadIdx.x;
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(word(x, 192 + lane * 4 + i));
    u32 a[4];
    for (int i = 0; i < 4; ++i) a[i] = word(x, (lane / 4 + i % 2 * 8) * 8 + lane % 4 + i / 2 * 4);
    mma_m16n8k16<T>(d, a, word(x, 128 + lane / 4 * 8 + lane % 4), word(x, 128 + lane / 4 * 8 + lane % 4 + 4));
    put(y, __float_as_uint(d[0]), __float_as_uint(d[1]), __float_as_uint(d[2]), __float_as_uint(d[3]));
}
KERNEL(mma_f16) { multiply<f16>(x, weights, y); }
KERNEL(mma_bf16) { multiply<bf16>(x, weights, y); }

KERNEL(matrices) {
    unsigned char* shared = dynamic_shared_memory();
    for (int i = threadIdx.x; i < 256; i += 32) store_shared_u32(shared + 4 * i, word(x, i));
    __syncwarp();
    u32 r[4];
    ldmatrix_x4(r, shared + (threadIdx.x * 5 % 64) * 16);
    put(y, r[0], r[1], r[2], r[3]);
}
KERNEL(there_and_back) {  // to every second row, in another order
    unsigned char* row = dynamic_shared_memory() + threadIdx.x * 5 % 32 * 32;
    const int i = threadIdx.x * 4;
    const u32 r[4] = {word(x, i), word(x, i + 1), word(x, i + 2), word(x, i + 3)};
    stmatrix_x4(row, r);
    __syncwarp();
    u32 back[4];
    ldmatrix_x4(back, row);
    put(y, back[0], back[1], back[2], back[3]);
}

// x: pairs of floats. Words out: packed f16, packed bf16.
KERNEL(narrow) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float low = __uint_as_float(word(x, 2 * i)), high = __uint_as_float(word(x, 2 * i + 1));
    put(y, pack<f16>(low, high), pack<bf16>(low, high), 0, 0);
}
// x: fours of floats. A word out: packed e4m3.
KERNEL(narrow_e4m3) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    Vec16 v = load_global_16(x + i * 8);
    put(y, pack_e4m3(__uint_as_float(v.word[0]), __uint_as_float(v.word[1]), __uint_as_float(v.word[2]),
                     __uint_as_float(v.word[3])), 0, 0, 0);
}
KERNEL(widen) {
    u32 pair = word(x, blockIdx.x * blockDim.x + threadIdx.x);
    FloatPair f = unpack<f16>(pair), b = unpack<bf16>(pair);
    put(y, __float_as_uint(f.low), __float_as_uint(f.high), __float_as_uint(b.low), __float_as_uint(b.high));
}
// x: threes of packed pairs, each kind after another. Words out: a b, that saturated, a b + c, tanh a.
KERNEL(on_halves) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, count = gridDim.x * blockDim.x;
    u32 a = word(x, i), b = word(x, count + i), c = word(x, 2 * count + i);
    put(y, multiply_f16x2(a, b), multiply_saturated_f16x2(a, b), multiply_add_f16x2(a, b, c), tanh_approx_f16x2(a));
}
// x: pairs of pairs, each kind after another. Words out: a + b as f16 and as bf16.
KERNEL(sums) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, count = gridDim.x * blockDim.x;
    u32 a = word(x, i), b = word(x, count + i);
    put(y, add_pairs<f16>(a, b), add_pairs<bf16>(a, b), 0, 0);
}
// x: pairs of floats. A word out: packed f16.
KERNEL(narrow_finite) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    put(y, pack_finite_f16x2(__uint_as_float(word(x, 2 * i)), __uint_as_float(word(x, 2 * i + 1))), 0, 0, 0);
}
KERNEL(special) {
    float v = __uint_as_float(__ldg(reinterpret_cast<const u32*>(x) + threadIdx.x));
    put(y, __float_as_uint(exp2_approx(v)), __float_as_uint(reciprocal_approx(v)), __float_as_uint(erff(v)),
        __float_as_uint(tanh_approx(v)));
}
KERNEL(shuffles) {
    int lane = threadIdx.x % 32;
    put(y, __shfl_sync(~0u, lane, lane + 3), __shfl_xor_sync(~0u, lane, 8), __shfl_down_sync(~0u, lane, 4, 16),
        __shfl_up_sync(~0u, lane, 4));
}
KERNEL(coordinates) {
    put(y, threadIdx.x, blockIdx.x, blockDim.x * 1000 + gridDim.x, static_cast<u32>(batch));
}
KERNEL(vectors) {
    unsigned char* shared = dynamic_shared_memory() + threadIdx.x * 16;
    cp_async_16(shared, x + threadIdx.x * 8, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<0>();
    Vec16 v = load_shared_16(shared);
    put(y, v.word[0], v.word[1], v.word[2], v.word[3]);
}
KERNEL(halves_of_vectors) {
    unsigned char* shared = dynamic_shared_memory() + threadIdx.x * 16;
    cp_async_8(shared, x + threadIdx.x * 8 + 4, true);
    cp_async_8(shared + 8, x + threadIdx.x * 8, threadIdx.x % 2 == 0);
    cp_async_commit();
    cp_async_wait<0>();
    Vec16 v = load_shared_16(shared);
    put(y, v.word[0], v.word[1], v.word[2], v.word[3]);
}
KERNEL(floats) {
    FloatPair pair = load_global_f32x2(reinterpret_cast<const float*>(x) + 2 * threadIdx.x);
    float v[4] = {pair.low, pair.high, 3, 4};
    void* shared = dynamic_shared_memory() + threadIdx.x * 16;
    store_shared_f32x4(shared, v);
    add_shared_f32x4(v, shared);
    put(y, __float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
}
KERNEL(copy_hidden) {
    store_global_16(hidden + threadIdx.x * 8, Vec16{{threadIdx.x, 1, 2, 3}});
    put(y, hidden == nullptr, 0, 0, 0);
}
"""


@pytest.fixture(scope="module")
def library(make_library: Callable[[str], HostLibrary]) -> HostLibrary:
    return make_library(TEXT)


Launch = Callable[..., Array]


def words(y: Array, count: int) -> Array:
    return y.view(np.uint32)[: 4 * count].reshape(count, 4)


def run_mma(library: HostLibrary, launch: Launch, symbol: str, a: Array, b: Array, c: Array) -> Array:
    """A (16, 16), B (16, 8) in a 16-bit dtype; C (16, 8) float32."""
    lane = np.arange(32)
    rows, columns = lane // 4, 2 * (lane % 4)
    fragments = np.stack(
        [c[rows, columns], c[rows, columns + 1], c[rows + 8, columns], c[rows + 8, columns + 1]], axis=1
    )
    bits = [np.ascontiguousarray(m).view(np.uint16).ravel() for m in (a, b.T, fragments.astype(np.float32))]
    x = np.concatenate(bits).view(np.float16)
    out = words(launch(library, symbol, x=x), 32).view(np.float32)
    d = np.empty((16, 8), np.float32)
    for i in range(4):
        d[rows + i // 2 * 8, columns + i % 2] = out[:, i]
    return d


@pytest.mark.parametrize(("symbol", "dtype"), [("mma_f16", np.float16), ("mma_bf16", ml_dtypes.bfloat16)])
def test_mma_multiplies(library: HostLibrary, launch: Launch, symbol: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((16, 16)).astype(dtype), rng.standard_normal((16, 8)).astype(dtype)
    c = rng.standard_normal((16, 8)).astype(np.float32)
    d = run_mma(library, launch, symbol, a, b, c)
    np.testing.assert_allclose(d, c + a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("symbol", "dtype"), [("mma_f16", np.float16), ("mma_bf16", ml_dtypes.bfloat16)])
def test_mma_keeps_nan_infinity_and_subnormals(library: HostLibrary, launch: Launch, symbol: str, dtype: Any) -> None:
    a, b, c = np.zeros((16, 16), dtype), np.ones((16, 8), dtype), np.zeros((16, 8), np.float32)
    a[2, 3], a[5, 0], a[9, 15] = np.nan, -np.inf, np.float32(6e-8)
    d = run_mma(library, launch, symbol, a, b, c)
    assert np.isnan(d[2]).all()
    assert (d[5] == -np.inf).all()
    assert (d[9] == np.float32(a[9, 15])).all() and d[9, 0] > 0
    assert (np.delete(d, [2, 5, 9], axis=0) == 0).all()


def test_ldmatrix_distributes_rows(library: HostLibrary, launch: Launch) -> None:
    x = np.arange(512, dtype=np.uint16).view(np.float16)
    out = words(launch(library, "matrices", x=x), 32).view(np.uint16).reshape(32, 4, 2)
    rows = np.arange(512, dtype=np.uint16).reshape(64, 8)[np.arange(32) * 5 % 64].reshape(4, 8, 8)
    expected = rows.transpose(1, 0, 2).reshape(8, 4, 4, 2).transpose(0, 2, 1, 3).reshape(32, 4, 2)
    np.testing.assert_array_equal(out, expected)


def test_stmatrix_is_the_inverse_of_ldmatrix(library: HostLibrary, launch: Launch) -> None:
    x = np.arange(256, dtype=np.uint16).view(np.float16)
    out = words(launch(library, "there_and_back", x=x), 32)
    np.testing.assert_array_equal(out.view(np.uint16).ravel(), x.view(np.uint16))


def interesting_floats() -> Array:
    """Random bit patterns, and all halves with the midpoints between them and their neighbours."""
    rng = np.random.default_rng(2)
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[-1] = 65536.0
    middle = (halves[1:] + halves[:-1]) / 2
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.996, 65520, 1e-45, 3.4e38], np.float32)
    patterns = rng.integers(0, 2**32, 16384, dtype=np.uint32).view(np.float32)
    near = [np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(np.inf))]
    values = np.concatenate([special, patterns, halves[:-1], *near, -middle])
    return values[: len(values) // 64 * 64]


def test_pack_rounds_to_nearest_even(library: HostLibrary, launch: Launch) -> None:
    values = interesting_floats()
    pairs = len(values) // 2
    y = launch(library, "narrow", x=values.view(np.float16), grid=pairs // 32, y_words=4 * pairs)
    out = words(y, pairs)
    with np.errstate(over="ignore", invalid="ignore"):
        for column, dtype in ((0, np.float16), (1, ml_dtypes.bfloat16)):
            bits = np.ascontiguousarray(out[:, column]).view(np.uint16)
            got, expected = bits.view(dtype), values.astype(dtype)
            nan = np.isnan(values)
            np.testing.assert_array_equal(bits[~nan], expected.view(np.uint16)[~nan])
            assert np.isnan(got[nan].astype(np.float32)).all()


def test_pack_e4m3_rounds_to_nearest_even_and_saturates(library: HostLibrary, launch: Launch) -> None:
    every = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    middle = (every[1:] + every[:-1]) / 2
    near = [np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(np.inf))]
    edges = np.array([448, 463.99, 464, 480, 1e9, np.inf, np.nan, 2**-10, 2**-11, 1e-45], np.float32)
    values = np.concatenate([every, *near, edges, interesting_floats()])
    values = np.concatenate([values, -values])
    values = values[: len(values) // 128 * 128]
    fours = len(values) // 4
    y = launch(library, "narrow_e4m3", x=values.view(np.float16), grid=fours // 32, y_words=4 * fours)
    got = np.ascontiguousarray(words(y, fours)[:, 0]).view(np.uint8)
    nan = np.isnan(values)
    expected = np.where(nan, 0, np.clip(values, -448, 448)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(got[~nan], expected[~nan])
    assert nan.any() and (got[nan] == 0x7F).all()


def test_unpack_is_exact(library: HostLibrary, launch: Launch) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    out = words(launch(library, "widen", x=bits.view(np.float16), grid=1024, y_words=4 * 32768), 32768)
    out = out.view(np.float32)
    np.testing.assert_array_equal(out[:, :2].ravel(), bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(out[:, 2:].ravel(), bits.view(ml_dtypes.bfloat16).astype(np.float32))


def test_pack_finite_saturates(library: HostLibrary, launch: Launch) -> None:
    values = interesting_floats()
    pairs = len(values) // 2
    y = launch(library, "narrow_finite", x=values.view(np.float16), grid=pairs // 32, y_words=4 * pairs)
    np.testing.assert_array_equal(
        words(y, pairs)[:, 0].copy().view(np.float16), np.clip(values, -65504, 65504).astype(np.float16)
    )


def test_arithmetic_on_halves_rounds_once(library: HostLibrary, launch: Launch) -> None:
    pairs = 1 << 15
    rng = np.random.default_rng(6)
    x = rng.integers(0, 65536, (3, 2 * pairs), dtype=np.uint16).view(np.float16)
    x[:, : pairs // 2] = rng.standard_normal((3, pairs // 2))  # whose sums are not those of one addend
    y = launch(library, "on_halves", x=x.ravel(), grid=pairs // 32, y_words=4 * pairs)
    product, saturated, total, tanh = (words(y, pairs)[:, i].copy().view(np.float16) for i in range(4))
    with np.errstate(all="ignore"):
        a, b, c = x.astype(np.float64)
        np.testing.assert_array_equal(product, (a * b).astype(np.float16))
        np.testing.assert_array_equal(saturated, np.nan_to_num(np.clip(a * b, 0, 1)).astype(np.float16))
        np.testing.assert_array_equal(total, (a * b + c).astype(np.float16))
        np.testing.assert_allclose(tanh, np.tanh(a), rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize(("column", "dtype"), [(0, np.float16), (1, ml_dtypes.bfloat16)])
def test_packed_sums_round_once(library: HostLibrary, launch: Launch, column: int, dtype: Any) -> None:
    pairs = 1 << 15
    x = np.random.default_rng(7).integers(0, 65536, (2, 2 * pairs), dtype=np.uint16)
    y = launch(library, "sums", x=x.view(np.float16).ravel(), grid=pairs // 32, y_words=4 * pairs)
    with np.errstate(all="ignore"):
        a, b = x.view(dtype).astype(np.float64)
        np.testing.assert_array_equal(
            words(y, pairs)[:, column].copy().view(dtype).astype(np.float64), (a + b).astype(dtype).astype(np.float64)
        )


def test_special_functions(library: HostLibrary, launch: Launch) -> None:
    v = np.linspace(-20, 20, 32, dtype=np.float32)
    out = words(launch(library, "special", x=v.view(np.float16)), 32).view(np.float32)
    np.testing.assert_allclose(out[:, 0], np.exp2(v), rtol=2**-22)
    np.testing.assert_allclose(out[:, 1], 1 / v, rtol=2**-22)
    np.testing.assert_allclose(out[:, 2], [math.erf(value) for value in v], rtol=1e-6)
    np.testing.assert_allclose(out[:, 3], np.tanh(v), rtol=2**-10)


def test_shuffles(library: HostLibrary, launch: Launch) -> None:
    lane = np.arange(32)
    out = words(launch(library, "shuffles", threads=64), 64)
    expected = np.stack(
        [(lane + 3) % 32, lane ^ 8, np.where(lane % 16 < 12, lane + 4, lane), np.where(lane >= 4, lane - 4, lane)], 1
    )
    np.testing.assert_array_equal(out, np.concatenate([expected, expected]))


def test_coordinates_and_arguments(library: HostLibrary, launch: Launch) -> None:
    out = words(launch(library, "coordinates", grid=3, threads=96, batch=-7), 288).astype(np.int32)
    np.testing.assert_array_equal(out[:, 0], np.tile(np.arange(96), 3))
    np.testing.assert_array_equal(out[:, 1], np.repeat(np.arange(3), 96))
    assert (out[:, 2] == 96003).all() and (out[:, 3] == -7).all()


@pytest.mark.parametrize("completion", ["late", "random"])
def test_cp_async_copies_or_fills_with_zeros(library: HostLibrary, launch: Launch, completion: str) -> None:
    x = np.random.default_rng(3).standard_normal(256).astype(np.float16)
    y = launch(library, "vectors", x=x, completion=completion)[:256].reshape(32, 8)
    np.testing.assert_array_equal(y[::2], x.reshape(32, 8)[::2])
    assert (y[1::2] == 0).all()


@pytest.mark.parametrize("completion", ["late", "random"])
def test_narrow_copies_are_of_eight_bytes(library: HostLibrary, launch: Launch, completion: str) -> None:
    x = np.random.default_rng(3).standard_normal(256).astype(np.float16).reshape(32, 8)
    y = launch(library, "halves_of_vectors", x=x.ravel(), completion=completion)[:256].reshape(32, 8)
    np.testing.assert_array_equal(y[:, :4], x[:, 4:])
    np.testing.assert_array_equal(y[::2, 4:], x[::2, :4])
    assert (y[1::2, 4:] == 0).all()


def test_vectors_of_floats(library: HostLibrary, launch: Launch) -> None:
    v = np.random.default_rng(4).standard_normal(64).astype(np.float32)
    out = words(launch(library, "floats", x=v.view(np.float16)), 32).view(np.float32)
    np.testing.assert_array_equal(out[:, :2], 2 * v.reshape(32, 2))
    assert (out[:, 2:] == [6, 8]).all()


def test_hidden_is_passed(library: HostLibrary, launch: Launch) -> None:
    hidden = np.zeros(512, np.uint8)
    y = launch(library, "copy_hidden", hidden=hidden)
    assert y.view(np.uint32)[0] == 0
    np.testing.assert_array_equal(hidden.view(np.uint32).reshape(32, 4)[:, 0], np.arange(32))


def test_host_headers_define_what_the_gpu_headers_define() -> None:
    function = re.compile(r"^(?:template <.*>\s*)?(?:__device__ )?inline [\w ]+?[*&]? ?(\w+)(?:<\w+>)?\(", re.MULTILINE)
    for header in sorted((TEMPLATES / "ptx").glob("*.cuh")):
        text = header.read_text(encoding="utf-8")
        names = set(function.findall(text))
        if not names:
            continue
        host = set(function.findall((INCLUDE / "ptx" / header.name).read_text(encoding="utf-8")))
        assert names <= host, header.name
