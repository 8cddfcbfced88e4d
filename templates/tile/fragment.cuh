// mma fragments: A from padded shared tiles, B from packed weights, accumulators to shared tiles.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/memory.cuh"
#include "ptx/mma.cuh"

// A packed weight block holds 16 inputs x 16 outputs: in fragment order, 16 bytes a lane, for the grouped convolution;
// elsewhere as four core matrices of 8 outputs x 8 inputs, a row of 16 bytes for each output.
constexpr int BLOCK_BYTES = 512;
constexpr int CORE_BYTES = 128;

// A fragment (16 rows x 16 columns) at `tile`, the fragment's first row and column.
__device__ inline void load_a(u32 (&a)[4], const unsigned char* tile, int pitch, int lane) {
    ldmatrix_x4(a, tile + lane % 16 * pitch + lane / 16 * 16);
}

// Byte offset of the row that this lane hands to ldmatrix for a block of core matrices: those of the second 8 outputs
// lie `n8_stride` bytes after those of the first, and those of the second 8 inputs next to those of the first. The
// registers are then b0 and b1 of the first 8 outputs, and of the second.
__device__ inline int core_row(int n8_stride, int lane) { return lane / 16 * n8_stride + lane % 16 * 16; }

// acc += A B for MTiles stacked A fragments and NBlocks blocks of core matrices that lie `stride` bytes apart; `row` is
// this lane's row of the first one.
template <class T, int MTiles, int NBlocks>
__device__ inline void multiply(float (&acc)[MTiles][2 * NBlocks][4], const u32 (&a)[MTiles][4],
                                const unsigned char* row, int stride) {
#pragma unroll
    for (int n = 0; n < NBlocks; ++n) {
        u32 b[4];
        ldmatrix_x4(b, row + n * stride);
#pragma unroll
        for (int m = 0; m < MTiles; ++m) {
            mma_m16n8k16<T>(acc[m][2 * n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(acc[m][2 * n + 1], a[m], b[2], b[3]);
        }
    }
}

// Starts a 16x8 accumulator as a bias of its columns.
__device__ inline void fill_accumulator(float (&acc)[4], FloatPair bias) {
    acc[0] = acc[2] = bias.low;
    acc[1] = acc[3] = bias.high;
}

__device__ inline void add_to_accumulator(float (&acc)[4], FloatPair bias) {
    acc[0] += bias.low, acc[1] += bias.high;
    acc[2] += bias.low, acc[3] += bias.high;
}

// Two neighbouring 16x8 accumulators become one 16x16 A fragment.
template <class T>
__device__ inline void accumulators_to_a(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack<T>(left[0], left[1]);
    a[1] = pack<T>(left[2], left[3]);
    a[2] = pack<T>(right[0], right[1]);
    a[3] = pack<T>(right[2], right[3]);
}

// Rounds a 16x8 accumulator into a shared tile; `tile` is the accumulator's first row and column.
template <class T>
__device__ inline void store_accumulator(unsigned char* tile, int pitch, const float (&acc)[4], int lane) {
    unsigned char* at = tile + lane / 4 * pitch + lane % 4 * 4;
    store_shared_u32(at, pack<T>(acc[0], acc[1]));
    store_shared_u32(at + 8 * pitch, pack<T>(acc[2], acc[3]));
}

// Runs body(i) for every i in [0, Count) that is this thread's, an equal share of a fixed number of rounds each.
template <int Threads, int Count, class Body>
__device__ inline void share_out(int thread, Body body) {
    constexpr int ROUNDS = Count / Threads;
#pragma unroll 4
    for (int round = 0; round < ROUNDS; ++round) body(round * Threads + thread);
    if constexpr (Count % Threads > 0) {
        if (thread < Count % Threads) body(ROUNDS * Threads + thread);
    }
}

// Starts copying Rows rows of RowBytes bytes (a multiple of 16), `stride` bytes apart in global memory and contiguous
// in shared memory, spread over Threads threads.
template <int Threads, int Rows, int RowBytes>
__device__ inline void copy_async(unsigned char* shared, const unsigned char* global, int stride) {
    constexpr int UNITS = RowBytes / 16;
    share_out<Threads, Rows * UNITS>(
        threadIdx.x, [&](int i) { cp_async_16(shared + i * 16, global + i / UNITS * stride + i % UNITS * 16, true); });
}
