// A small matmul by all warps of a CTA: partial sums to shared memory, from where threads take runs of 8 outputs.
#pragma once
#include "tile/fragment.cuh"
#include "tile/index.cuh"

constexpr int common_divisor(int a, int b) { return b ? common_divisor(b, a % b) : a; }

// Slices come in turns: first that of CTA `rank`, then that of the CTA before it, and so on, as they land.
__device__ inline int slice_of_turn(int turn, int rank, int slices) {
    return turn <= rank ? rank - turn : rank - turn + slices;
}

// Pixels x inputs, Slices slices of 16 Blocks, to pixels x 8 NTiles outputs. WarpsK groups of warps sum over every so
// many slices each, or over equal parts of one; the warps of a group share out the outputs first, then the pixels, as
// far as these divide evenly.
template <class T, int Pixels, int Slices, int Blocks, int NTiles, int Warps, int WarpsK>
struct PartialMatmul {
    static constexpr int SHARERS = WarpsK > Slices ? WarpsK / Slices : 1;  // groups of a slice
    static constexpr int STRIDE = WarpsK / SHARERS;                        // slices under way at a time
    static constexpr int MY_BLOCKS = Blocks / SHARERS;                     // of a slice, of a group
    static_assert(Warps % WarpsK == 0 && Slices % STRIDE == 0 && WarpsK % SHARERS == 0 && Blocks % SHARERS == 0,
                  "groups of warps share out the inputs evenly");
    static constexpr int IN_PITCH = pitch_bytes(Blocks * 16), SLICE_BYTES = Pixels * IN_PITCH;
    static constexpr int M_TILES = ceil_div(Pixels, 16), GROUP = Warps / WarpsK;
    static constexpr int SLICE_STEPS = ceil_div(MY_BLOCKS, 2), STEPS = Slices / STRIDE * SLICE_STEPS;
    static constexpr int WARPS_N = common_divisor(GROUP, NTiles);
    static constexpr int WARPS_M = common_divisor(GROUP / WARPS_N, M_TILES);
    static constexpr int MY_M = M_TILES / WARPS_M, MY_N = NTiles / WARPS_N;
    static constexpr int PITCH = (NTiles / 2 * 2 + 1) * 32;  // an odd number of 32 bytes: stores meet no bank conflicts
    static constexpr int GROUP_BYTES = Pixels * PITCH;
    static constexpr int BYTES = WarpsK * GROUP_BYTES;

    // Fragments of one step: 32 inputs, or the last 16 of a slice.
    struct Operands {
        u32 a[MY_M][2][4], b[MY_N][4];
    };

    // Blocks of a step.
    static constexpr __device__ int blocks(int step) { return step % SLICE_STEPS * 2 + 1 < MY_BLOCKS ? 2 : 1; }

    // weights(turn, slice) is called before any input of the slice is read. It returns the slice's weights, core
    // matrices of which those of the next 8 outputs and of the next 16 inputs lie `n8_stride` and `k16_stride` bytes
    // on.
    template <class Weights>
    static __device__ void run(unsigned char* partial, const unsigned char* in, int rank, int n8_stride, int k16_stride,
                               Weights weights) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / GROUP;
        const int first = warp % WARPS_M * MY_M * 16, part = warp % GROUP / WARPS_M,
                  share = group % SHARERS * MY_BLOCKS;
        if (part >= WARPS_N) return;
        int rows[MY_M];
#pragma unroll
        for (int m = 0; m < MY_M; ++m)
            rows[m] = min(first + m * 16 + lane % 16, Pixels - 1) * IN_PITCH + lane / 16 * 16 + share * 32;
        const int columns = part * MY_N * n8_stride + share * k16_stride;
        const unsigned char *inputs = nullptr, *matrices = nullptr;
        const auto load = [&](Operands& to, int step) {
            if (step % SLICE_STEPS == 0) {
                const int turn = step / SLICE_STEPS * STRIDE + group / SHARERS;
                const int slice = slice_of_turn(turn, rank, Slices);
                matrices = weights(turn, slice) + columns;
                inputs = in + slice * SLICE_BYTES;
            }
            const int block = step % SLICE_STEPS * 2;
#pragma unroll
            for (int i = 0; i < blocks(step) * MY_M; ++i)
                ldmatrix_x4(to.a[i % MY_M][i / MY_M], inputs + rows[i % MY_M] + (block + i / MY_M) * 32);
            const unsigned char* const row =
                matrices + block * k16_stride + core_row(blocks(step) == 2 ? k16_stride : 0, lane);
#pragma unroll
            for (int n = 0; n < MY_N; ++n) ldmatrix_x4(to.b[n], row + n * n8_stride);
        };
        float acc[2][MY_M][MY_N][4] = {};  // of even and odd blocks of 16 inputs, so that neighbours do not wait
        Operands operands[2];
        load(operands[0], 0);
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (step + 1 < STEPS) load(operands[(step + 1) % 2], step + 1);
            const Operands& now = operands[step % 2];
#pragma unroll
            for (int i = 0; i < blocks(step) * MY_M * MY_N; ++i) {
                const int half = i / (MY_M * MY_N), m = i / MY_N % MY_M, n = i % MY_N;
                mma_m16n8k16<T>(acc[half][m][n], now.a[m][half], now.b[n][2 * half], now.b[n][2 * half + 1]);
            }
        }
        unsigned char* const to = partial + group * GROUP_BYTES + part * MY_N * 32 + lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < 2 * MY_M * MY_N; ++i) {
            const int m = i / 2 / MY_N, n = i / 2 % MY_N, at = 2 * (i % 2);
            const int row = first + m * 16 + i % 2 * 8 + lane / 4;
            if (inside(row, Pixels))
                store_shared_f32x2(to + row * PITCH + n * 32,
                                   {acc[0][m][n][at] + acc[1][m][n][at], acc[0][m][n][at + 1] + acc[1][m][n][at + 1]});
        }
    }

    // A pixel's outputs from 8 `unit` on, the groups' sums added in order; all warps must have run.
    static __device__ void sum(float (&out)[8], const unsigned char* partial, int pixel, int unit) {
        const unsigned char* const at = partial + pixel * PITCH + unit * 32;
        load_shared_f32x8(out, at);
#pragma unroll
        for (int group = 1; group < WarpsK; ++group) {
            float more[8];
            load_shared_f32x8(more, at + group * GROUP_BYTES);
#pragma unroll
            for (int j = 0; j < 8; ++j) out[j] += more[j];
        }
    }
};

// 8 floats rounded to storage.
template <class T>
__device__ inline Vec16 pack8(const float (&v)[8]) {
    Vec16 packed;
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.word[i] = pack<T>(v[2 * i], v[2 * i + 1]);
    return packed;
}
