// 3x3 grouped convolution (8 channels a group) of a halo tile on mma.m16n8k16, as a K = 80 matmul a group.
//
// k = tap * 8 + input channel, so one k16 step is two taps and each 8x8 ldmatrix matrix is 8 pixels x 1 tap. The halo
// tile holds (tile_h + 2) x (tile_w + 2) pixels and, after them, one zero pixel that stands in for every masked tap.
#pragma once
#include "tile/fragment.cuh"
#include "tile/index.cuh"

constexpr int CONV_BLOCKS = 5;  // packed weight blocks of a pair of groups

// The two B registers of k16 step `step` of group `group` (0 or 1) of a pair.
__device__ inline void conv_b(u32 (&b)[2], const Vec16 (&w)[CONV_BLOCKS], int group, int step) {
    const Vec16& block = w[step == 4 ? 4 : 2 * group + step / 2];
    const int word = step == 4 ? 2 * group : step % 2 * 2;
    b[0] = block.word[word];
    b[1] = block.word[word + 1];
}

// A halo tile in shared memory. Rows lie ROW pixels apart: congruent to the tile's width modulo 8, so that the 8 pixels
// of an ldmatrix matrix fall into different banks even where they continue on the next row.
template <int TileH, int TileW, int Channels>
struct HaloTile {
    static constexpr int COLS = TileW + 2;
    static constexpr int PIXELS = (TileH + 2) * COLS;
    static constexpr int ROW = TileW % 8 == 0 ? COLS : TileW + 8;
    static constexpr int PITCH = pitch_bytes(Channels);
    static constexpr int ZERO = (TileH + 2) * ROW * PITCH;
    static constexpr int BYTES = ZERO + PITCH;
    // Byte offset of the pixel at tile coordinates (row, col), which may be -1 or TileH, TileW.
    static __host__ __device__ constexpr int offset(int row, int col) { return ((row + 1) * ROW + col + 1) * PITCH; }
};

// Loads every tap of every pixel. Pixels are numbered along rows, and a tile may span images, whose borders mask taps.
template <class Halo, int Height, int TileH, int TileW, int MTiles>
struct ConvByTap {
    static __host__ __device__ constexpr int tile_row(int pixel) { return pixel / TileW; }
    static __host__ __device__ constexpr int tile_col(int pixel) { return pixel % TileW; }

    int offsets[MTiles][5];  // of the row this lane hands to ldmatrix, by m-tile and k16 step

    __device__ ConvByTap(int first_pixel, int first_row, int lane) {
#pragma unroll
        for (int m = 0; m < MTiles; ++m) {
            const int pixel = min(first_pixel + m * 16 + lane % 16, TileH * TileW - 1);
            const int y = (first_row + tile_row(pixel)) % Height;
#pragma unroll
            for (int step = 0; step < 5; ++step) {
                const int tap = 2 * step + lane / 16;
                const int dy = tap / 3 - 1;
                const bool real = tap < 9 && inside(y + dy, Height);
                offsets[m][step] =
                    real ? Halo::offset(tile_row(pixel) + dy, tile_col(pixel) + tap % 3 - 1) : Halo::ZERO;
            }
        }
    }

    // acc += the convolution of `Groups` groups whose channels start at `halo`; w holds their pairs' weights.
    template <class T, int Groups>
    __device__ void run(float (&acc)[Groups][MTiles][4], const unsigned char* halo,
                        const Vec16 (&w)[Groups / 2][CONV_BLOCKS]) const {
#pragma unroll
        for (int step = 0; step < 5; ++step) {
            u32 a[Groups][MTiles][4];
#pragma unroll
            for (int i = 0; i < Groups * MTiles; ++i)
                ldmatrix_x4(a[i / MTiles][i % MTiles], halo + i / MTiles * 16 + offsets[i % MTiles][step]);
#pragma unroll
            for (int i = 0; i < Groups * MTiles; ++i) {
                const int group = i / MTiles;
                u32 b[2];
                conv_b(b, w[group / 2], group % 2, step);
                mma_m16n8k16<T>(acc[group][i % MTiles], a[group][i % MTiles], b[0], b[1]);
            }
        }
    }
};

// Loads each row of 8 pixels once for its three vertical taps. A warp owns a strip, 8 pixels wide and 2 MTiles rows
// high, of one image; pixels are numbered along the rows of a strip, strips down the tile and then across.
template <class Halo, int Height, int TileH, int TileW, int MTiles>
struct ConvByRow {
    static constexpr int RUNS = 2 * MTiles;
    static constexpr int MATRICES = 3 * (RUNS + 2);
    static constexpr int LOADS = ceil_div(MATRICES, 4);
    static_assert(TileW % 8 == 0 && TileH % RUNS == 0 && Height % RUNS == 0, "strips tile the images");
    static __host__ __device__ constexpr int tile_row(int pixel) { return pixel / 8 % TileH; }
    static __host__ __device__ constexpr int tile_col(int pixel) { return pixel / 8 / TileH * 8 + pixel % 8; }

    int offsets[LOADS];

    __device__ ConvByRow(int first_pixel, int first_row, int lane) {
        const int y = (first_row + tile_row(first_pixel)) % Height;
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            const int matrix = min(load * 4 + lane / 8, MATRICES - 1);
            const int row = matrix % (RUNS + 2) - 1;
            const int col = tile_col(first_pixel) - 1 + matrix / (RUNS + 2) + lane % 8;
            offsets[load] = inside(y + row, Height) ? Halo::offset(tile_row(first_pixel) + row, col) : Halo::ZERO;
        }
    }

    template <class T, int Groups>
    __device__ void run(float (&acc)[Groups][MTiles][4], const unsigned char* halo,
                        const Vec16 (&w)[Groups / 2][CONV_BLOCKS]) const {
        u32 rows[Groups][LOADS][4];
#pragma unroll
        for (int i = 0; i < Groups * LOADS; ++i)
            ldmatrix_x4(rows[i / LOADS][i % LOADS], halo + i / LOADS * 16 + offsets[i % LOADS]);
#pragma unroll
        for (int step = 0; step < 5; ++step) {
#pragma unroll
            for (int group = 0; group < Groups; ++group) {
                u32 b[2];
                conv_b(b, w[group / 2], group % 2, step);
#pragma unroll
                for (int m = 0; m < MTiles; ++m) {
                    u32 a[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int tap = 2 * step + i / 2;
                        const int matrix = tap % 3 * (RUNS + 2) + 2 * m + i % 2 + tap / 3;
                        a[i] = tap < 9 ? rows[group][matrix / 4][matrix % 4] : 0;
                    }
                    mma_m16n8k16<T>(acc[group][m], a, b[0], b[1]);
                }
            }
        }
    }
};
