// 3x3 grouped convolution of tiles of the flat run of all images' pixels.
#pragma once
#include "tile/grouped_conv.cuh"

// z = gconv(x) + bias of `Pairs` neighbouring pairs of groups and `Blocks` times 16 pixels, as A fragments; those of a
// block begin `Stride` after those of the one before. `taps(a, block, group, step)` gives the A fragment of a k16 step
// of two taps; `weights` and `bias` are those of the first pair.
template <class T, int Pairs, int Blocks = 1, int Stride = Pairs, class Taps>
__device__ inline void convolve_pairs(u32 (*z)[4], const Taps& taps, const unsigned char* weights,
                                      const unsigned char* bias, int lane) {
    float acc[Blocks][2 * Pairs][4];
    Vec16 w[Pairs][CONV_BLOCKS];
#pragma unroll
    for (int i = 0; i < Pairs * CONV_BLOCKS; ++i)
        w[i / CONV_BLOCKS][i % CONV_BLOCKS] = load_shared_16(weights + i * BLOCK_BYTES + lane * 16);
#pragma unroll
    for (int group = 0; group < 2 * Pairs; ++group) {
        const FloatPair b = load_shared_f32x2(bias + group * 32 + lane % 4 * 8);
#pragma unroll
        for (int block = 0; block < Blocks; ++block) fill_accumulator(acc[block][group], b);
    }
#pragma unroll
    for (int step = 0; step < CONV_BLOCKS; ++step) {
        u32 a[2 * Pairs][Blocks][4];
#pragma unroll
        for (int i = 0; i < 2 * Pairs * Blocks; ++i) taps(a[i / Blocks][i % Blocks], i % Blocks, i / Blocks, step);
#pragma unroll
        for (int group = 0; group < 2 * Pairs; ++group) {
            u32 b[2];
            conv_b(b, w[group / 2], group % 2, step);
#pragma unroll
            for (int block = 0; block < Blocks; ++block)
                mma_m16n8k16<T>(acc[block][group], a[group][block], b[0], b[1]);
        }
    }
#pragma unroll
    for (int i = 0; i < Blocks * Pairs; ++i) {
        const int block = i / Pairs, pair = i % Pairs;
        accumulators_to_a<T>(z[block * Stride + pair], acc[block][2 * pair], acc[block][2 * pair + 1]);
    }
}

// z of a warp's blocks of 16 pixels and all of a tile's channels, some groups at a time, so that their dependent
// instructions interleave. `place` says where the pixels lie in `shared`.
template <class T, class Tile>
__device__ inline void convolve_all(u32 (&z)[Tile::BLOCKS][Tile::CHANNELS / 16][4], const unsigned char* shared,
                                    const typename Tile::Place& place, const unsigned char* weights,
                                    const unsigned char* bias, int lane) {
    constexpr int ALL = Tile::CHANNELS / 16, PAIRS = ALL % 2 == 0 ? Tile::PAIRS : 1;
#pragma unroll
    for (int pair = 0; pair < ALL; pair += PAIRS) {
        const typename Tile::template Taps<2 * PAIRS> taps(shared + pair * 32, place);
        convolve_pairs<T, PAIRS, Tile::BLOCKS, ALL>(z[0] + pair, taps, weights + pair * CONV_BLOCKS * BLOCK_BYTES,
                                                    bias + pair * 64, lane);
    }
}

// A run of consecutive pixels, whatever rows they lie in.
//
// The tile's slot in shared memory holds its pixels and Width + 1 more on either side, row after row of Channels
// elements; a zero pixel elsewhere stands in for every tap outside its image. A warp convolves `Blocks` times 16 pixels
// at a time.
template <int Pixels, int Channels, int Height, int Width, int Blocks = 1>
struct FlatTile {
    static constexpr int CHANNELS = Channels, BLOCKS = Blocks, PAIRS = Blocks == 1 ? 2 : 1;
    static constexpr int HALO = Width + 1;
    static constexpr int PITCH = pitch_bytes(Channels);
    static constexpr int NEXT_8 = 8 * PITCH;  // from a warp's first 8 pixels in the slot to its other 8

    // Pixels of the slot, from its first on, that the tile's first `pixels` and their taps take.
    static __host__ __device__ constexpr int reach(int pixels) { return pixels + 2 * HALO; }
    static constexpr int BYTES = reach(Pixels) * PITCH;

    static __device__ int tiles(int pixels) { return ceil_div(pixels, Pixels); }
    // Where the tile's `local`-th pixel lies in the slot.
    static __device__ int offset(int local) { return (HALO + local) * PITCH; }
    // Its index in the tensor, from `pixels` on if there is no such pixel; and that of the i-th of a warp's 16 after
    // it.
    static __device__ int index(int tile, int local) { return tile * Pixels + local; }
    static __device__ int apart(int i) { return i; }

    // Starts copying the slot's pixels `begin` to `end`, those that exist; `x` is the tensor's first of these channels,
    // and pixels lie `stride` elements apart.
    template <int Threads, class T>
    static __device__ void load(unsigned char* slot, const T* x, int stride, int tile, int pixels, int begin, int end,
                                int thread) {
        constexpr int UNITS = Channels / 8;
        const int origin = tile * Pixels - HALO;
        const int first = max(begin, -origin), last = min(end, pixels - origin);
        const T* const from = x + static_cast<long long>(origin) * stride;
#pragma unroll 4
        for (int i = first * UNITS + thread; i < last * UNITS; i += Threads)
            cp_async_16(slot + i / UNITS * PITCH + i % UNITS * 16, from + i / UNITS * stride + i % UNITS * 8, true);
    }

    // The rows that a lane hands to ldmatrix for its warp's pixels from `first` of the tile on, as offsets of shared
    // memory, by block of 16 pixels and k16 step of two taps.
    struct Place {
        int offsets[Blocks][CONV_BLOCKS];

        __device__ Place(int slot, int zero, int tile, int first, int pixels, int lane) {
#pragma unroll
            for (int block = 0; block < Blocks; ++block)
                find(offsets[block], slot, zero, tile, first + block * 16 + lane % 16, pixels, lane);
        }
        static __device__ void find(int (&offsets)[CONV_BLOCKS], int slot, int zero, int tile, int local, int pixels,
                                    int lane) {
            const int pixel = tile * Pixels + local;
            const int col = pixel % Width, row = pixel / Width % Height;
#pragma unroll
            for (int step = 0; step < CONV_BLOCKS; ++step) {
                const int tap = 2 * step + lane / 16;
                const int dy = tap / 3 - 1, dx = tap % 3 - 1;
                const bool real =
                    tap < 9 && inside(row + dy, Height) && inside(col + dx, Width) && inside(pixel, pixels);
                offsets[step] = real ? slot + offset(local) + (dy * Width + dx) * PITCH : zero;
            }
        }
    };

    // Loads the taps of `Groups` groups whose channels begin at `shared` as they are needed.
    template <int Groups>
    struct Taps {
        const unsigned char* shared;
        const Place& place;

        __device__ Taps(const unsigned char* shared, const Place& place) : shared(shared), place(place) {}
        __device__ void operator()(u32 (&a)[4], int block, int group, int step) const {
            ldmatrix_x4(a, shared + place.offsets[block][step] + group * 16);
        }
    };
};

// `Rows` rows of the run of all images' columns, 8 pixels wide, one column after another.
//
// The tile's slot in shared memory holds the rows and a pixel around them, zeros beside the images; a zero pixel
// elsewhere stands in for rows above and below a column. A warp convolves two rows a block, and a loaded row serves all
// of its taps.
template <int Rows, int Channels, int Height, int Width, int Blocks>
struct StripTile {
    static constexpr int MY_ROWS = 2 * Blocks;  // of a warp
    static_assert(Height % MY_ROWS == 0 && Width % 8 == 0 && Rows % MY_ROWS == 0, "a warp's rows lie in one column");
    static_assert(Blocks <= 2, "two instructions load a column of taps");
    static constexpr int CHANNELS = Channels, BLOCKS = Blocks, PAIRS = 1;
    static constexpr int ACROSS = Width / 8;
    static constexpr int COLS = 10;
    static constexpr int PITCH = pitch_bytes(Channels);
    static constexpr int NEXT_8 = COLS * PITCH;

    static __host__ __device__ constexpr int reach(int pixels) { return (pixels / 8 + 2) * COLS; }
    static constexpr int BYTES = reach(8 * Rows) * PITCH;

    static __device__ int tiles(int pixels) { return ceil_div(pixels / 8, Rows); }
    static __device__ int offset(int local) { return ((local / 8 + 1) * COLS + local % 8 + 1) * PITCH; }
    // A row of the run, which may lie before or behind it.
    struct Row {
        int y, across;  // in its column, and that in its image
        int first;      // the tensor's pixel from which it begins

        __device__ explicit Row(int row) {
            const u32 later = row + ACROSS * Height, column = later / Height;  // of an image later
            y = later % Height;
            across = column % ACROSS;
            first = (static_cast<int>(column / ACROSS - 1) * Height + y) * Width + across * 8;
        }
        __device__ void advance() {
            first += Width;
            if (++y < Height) return;
            y = 0;
            first += 8 - Height * Width;
            if (++across < ACROSS) return;
            across = 0;
            first += (Height - 1) * Width;
        }
    };
    static __device__ int index(int tile, int local) { return Row(tile * Rows + local / 8).first + local % 8; }
    static __device__ int apart(int i) { return i / 8 * Width + i % 8; }

    template <int Threads, class T>
    static __device__ void load(unsigned char* slot, const T* x, int stride, int tile, int pixels, int begin, int end,
                                u32 thread) {
        constexpr int UNITS = Channels / 8;
        Row row(tile * Rows - 1 + begin / COLS);
#pragma unroll 1  // producers have few registers
        for (int at = begin * PITCH; at < end * PITCH; at += COLS * PITCH, row.advance()) {
#pragma unroll
            for (int round = 0; round < ceil_div(COLS * UNITS, Threads); ++round) {
                const int right = (thread + round * Threads) / UNITS, unit = (thread + round * Threads) % UNITS;
                const bool real = inside(row.first, pixels) && inside(row.across * 8 + right - 1, Width);
                const long long from = static_cast<long long>(row.first + right - 1) * stride + unit * 8;
                if (right < COLS) cp_async_16(slot + at + right * PITCH + unit * 16, x + (real ? from : 0), real);
            }
        }
    }

    // By column of taps, the row that a lane hands to ldmatrix: of the four from that above the warp's first row on,
    // and with two blocks of the next two, for one group in half of the lanes and for the next in the others.
    struct Place {
        int offsets[3], low[3];

        __device__ Place(int slot, int zero, int tile, int first, int pixels, int lane) {
            const int top = (tile * Rows + first / 8) % Height;
#pragma unroll
            for (int dx = 0; dx < 3; ++dx) {
                const int column = slot + (first / 8 * COLS + lane % 8 + dx) * PITCH;
                offsets[dx] = inside(top + lane / 8 - 1, Height) ? column + lane / 8 * COLS * PITCH : zero;
                const int down = 4 + lane / 8 % 2;
                if (Blocks == 2)
                    low[dx] = (inside(top + down - 1, Height) ? column + down * COLS * PITCH : zero) + lane / 16 * 16;
            }
        }
    };

    // Loads the rows of two groups whose channels begin at `shared`.
    template <int Groups>
    struct Taps {
        static_assert(Groups == 2, "one instruction loads the lower rows of both groups");
        u32 rows[Groups][3][4], low[3][4];

        __device__ Taps(const unsigned char* shared, const Place& place) {
#pragma unroll
            for (int i = 0; i < 3 * Groups; ++i)
                ldmatrix_x4(rows[i / 3][i % 3], shared + place.offsets[i % 3] + i / 3 * 16);
            if constexpr (Blocks == 2) {
#pragma unroll
                for (int dx = 0; dx < 3; ++dx) ldmatrix_x4(low[dx], shared + place.low[dx]);
            }
        }
        __device__ void operator()(u32 (&a)[4], int block, int group, int step) const {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int tap = 2 * step + i / 2, row = 2 * block + i % 2 + tap / 3;
                a[i] = tap >= 9 ? 0 : row < 4 ? rows[group][tap % 3][row] : low[tap % 3][2 * group + row - 4];
            }
        }
    };
};

// `Rows` whole rows of an image, or `Images` whole images.
//
// The tile's slot in shared memory holds the rows with a zero pixel before each, and a row on either side of them: the
// image's, or zeros, which stacked images share. So every tap of a pixel lies at a fixed distance from it. A warp
// convolves a group of two strips, 8 pixels wide, down all rows: row y's pixels of both strips, shifted by a tap, are
// half an A fragment that serves output rows y - 1, y and y + 1.
template <int Rows, int Images, int Channels, int Height, int Width>
struct RowTile {
    static constexpr bool WHOLE = Rows == Height;
    static_assert(Height % Rows == 0 && (WHOLE || Images == 1), "tiles tile the images");
    static constexpr int ROW = Width + 1;  // pixels from one row of the slot to the next
    static constexpr int ROWS = Images * (Rows + 1) + 1;
    static constexpr int IMAGE_STRIPS = ceil_div(Width, 8);
    static constexpr int STRIPS = Images * IMAGE_STRIPS;
    static constexpr int SLOT_PIXELS = (ROWS - 1) * ROW + IMAGE_STRIPS * 8 + 2;
    static constexpr int PITCH = pitch_bytes(Channels);
    static constexpr int BYTES = SLOT_PIXELS * PITCH;

    static __host__ __device__ constexpr int tiles(int batch) {
        return WHOLE ? ceil_div(batch, Images) : batch * (Height / Rows);
    }

    // Starts copying the tile's rows and those on either side; `x` is the tensor's first of these channels, and pixels
    // lie `stride` elements apart.
    template <int Threads, class T>
    static __device__ void load(unsigned char* slot, const T* x, int stride, int tile, int batch, int thread) {
        constexpr int UNITS = Channels / 8, ROUND = Threads / UNITS;
        static_assert(Threads % UNITS == 0, "a thread copies the same channels of every pixel");
        constexpr int COUNT = (WHOLE ? Images * Rows : Rows + 2) * Width;
        const int first = tile * Images * Rows * Width - (WHOLE ? 0 : Width), unit = thread % UNITS;
        const int count = min(COUNT, batch * Height * Width - first), above = tile % (Height / Rows) * Rows - 1;
        const T* const from = x + static_cast<long long>(first) * stride + unit * 8;
        unsigned char* const to = slot + (WHOLE ? ROW + 1 : 1) * PITCH + unit * 16;
#pragma unroll 4
        for (int i = thread / UNITS; i < (WHOLE ? count : COUNT); i += ROUND) {
            const int row = i / Width, image = Images > 1 ? row / Rows : 0;
            const bool real = WHOLE || inside(above + row, Height);
            cp_async_16(to + (i + row + image * ROW) * PITCH, real ? from + static_cast<long long>(i) * stride : x,
                        real);
        }
    }

    // Writes the zeros that load() leaves out.
    template <int Threads>
    static __device__ void clear(unsigned char* slot, int thread) {
        constexpr int UNITS = PITCH / 16;
        constexpr float ZERO[4] = {};
        for (int i = thread; i < SLOT_PIXELS * UNITS; i += Threads) {
            const int pixel = i / UNITS, row = pixel / ROW;
            if (pixel % ROW == 0 || row >= ROWS || (WHOLE && row % (Rows + 1) == 0))
                store_shared_f32x4(slot + i * 16, ZERO);
        }
    }

    // The weights of a group as B fragments: for each row of taps its first two columns, then the third column's upper
    // two taps, then zero for the middle one and the lower one.
    struct Weights {
        u32 b[5][2];

        __device__ Weights(const unsigned char* packed, int group, int lane) {
            const unsigned char* const pair = packed + group / 2 * CONV_BLOCKS * BLOCK_BYTES + lane * 16;
            const Vec16 low = load_global_16(pair + group % 2 * 2 * BLOCK_BYTES);
            const Vec16 high = load_global_16(pair + (group % 2 * 2 + 1) * BLOCK_BYTES);
            const u32 last = load_global_16(pair + 4 * BLOCK_BYTES).word[group % 2 * 2];
            const u32 taps[9] = {low.word[0],  low.word[1],  low.word[2],  low.word[3], high.word[0],
                                 high.word[1], high.word[2], high.word[3], last};
#pragma unroll
            for (int row = 0; row < 3; ++row) b[row][0] = taps[3 * row], b[row][1] = taps[3 * row + 1];
            b[3][0] = taps[2], b[3][1] = taps[5];
            b[4][0] = 0, b[4][1] = taps[8];
        }
    };

    // The pixels from which tile strips begin, counted from the tile's first.
    static __device__ int strip_pixel(int strip) {
        return strip / IMAGE_STRIPS * Rows * Width + strip % IMAGE_STRIPS * 8;
    }

    // Convolves group `group` of strips 2 pair and 2 pair + 1, and hands each row's accumulator to store(row, acc): its
    // upper half is the first strip's.
    template <class T, class Store>
    static __device__ void convolve(const unsigned char* slot, int group, int pair, const Weights& weights,
                                    FloatPair bias, int lane, Store store) {
        constexpr int DOWN = ROW * PITCH;
        const int strip = min(2 * pair + lane / 8 % 2, STRIPS - 1);
        const int corner = strip / IMAGE_STRIPS * (Rows + 1) * ROW + strip % IMAGE_STRIPS * 8 + lane % 8;
        const unsigned char* const left = slot + corner * PITCH + group * 16 + lane / 16 * PITCH;
        const unsigned char* const right = slot + (corner + 2) * PITCH + group * 16 + lane / 16 * DOWN;
        // By slot row modulo 3 and 2: the first two columns of taps, and the third of this row and the next.
        u32 columns[3][4], third[2][4];
        if constexpr (!WHOLE) ldmatrix_x4(columns[0], left);
        ldmatrix_x4(columns[1], left + DOWN);
        ldmatrix_x4(third[0], right);
#pragma unroll
        for (int row = 0; row < Rows; ++row) {
            // Rows outside the image are zeros, and need no multiplication.
            const bool top = WHOLE && row == 0, bottom = WHOLE && row == Rows - 1;
            if (!bottom) ldmatrix_x4(columns[(row + 2) % 3], left + (row + 2) * DOWN);
            ldmatrix_x4(third[(row + 1) % 2], right + (row + 1) * DOWN);
            float acc[4];
            fill_accumulator(acc, bias);
#pragma unroll
            for (int tap = 0; tap < 3; ++tap) {
                if ((tap == 0 && top) || (tap == 2 && bottom)) continue;
                mma_m16n8k16<T>(acc, columns[(row + tap) % 3], weights.b[tap][0], weights.b[tap][1]);
            }
            mma_m16n8k16<T>(acc, third[row % 2], weights.b[3][0], weights.b[3][1]);
            mma_m16n8k16<T>(acc, third[(row + 1) % 2], weights.b[4][0], weights.b[4][1]);
            store(row, acc);
        }
    }
};
