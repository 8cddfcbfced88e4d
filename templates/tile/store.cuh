// Results to memory: accumulators rounded into a shared tile, shared rows to global memory in 16-byte pieces.
#pragma once
#include "ptx/packed_add.cuh"
#include "tile/fragment.cuh"

// Rounds a warp's accumulators into a shared tile, at its first row and column.
template <class T, int MTiles, int NTiles>
__device__ inline void store_tile(unsigned char* tile, int pitch, const float (&acc)[MTiles][NTiles][4], int lane) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
        for (int n = 0; n < NTiles; ++n) store_accumulator<T>(tile + m * 16 * pitch + n * 16, pitch, acc[m][n], lane);
}

// a + b for 8 packed elements.
template <class T>
__device__ inline Vec16 add_packed(const Vec16& a, const Vec16& b) {
    Vec16 sum;
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.word[i] = add_pairs<T>(a.word[i], b.word[i]);
    return sum;
}

// Copies Rows rows of Columns elements from a shared tile to `to`, shared out over Threads threads, adding the same
// elements of `residual` if Residual. `index(row)` is the row in the tensor, or -1 to skip it.
template <class T, int Threads, int Rows, int Columns, bool Residual, class Index>
__device__ inline void store_rows(T* to, const T* residual, int stride, const unsigned char* tile, int pitch,
                                  int thread, Index index) {
    constexpr int UNITS = Columns / 8;
    share_out<Threads, Rows * UNITS>(thread, [&](int i) {
        const int row = i / UNITS, unit = i % UNITS;
        const long long at = static_cast<long long>(index(row)) * stride + unit * 8;
        Vec16 value = load_shared_16(tile + row * pitch + unit * 16);
        // Loading some element for a skipped row, instead of branching, lets the loads of several rounds overlap.
        if constexpr (Residual) value = add_packed<T>(value, load_global_16(residual + (at < 0 ? 0 : at)));
        if (at >= 0) store_global_16(to + at, value);
    });
}
