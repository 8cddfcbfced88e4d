// A pointwise layer: out = epilogue(in W + b), a matmul over flat pixels whose weights stream through a ring.
//
// `Input` says where a pixel's inputs lie: `copy(to, pixel, unit, real)` brings the unit-th 8 of them to shared memory,
// or zeros if the pixel is not real. A Spec gives the sizes as constexpr int: K and N channels in and out; SPLIT, the
// work items a tile's outputs are split over; PIXELS of a tile; WARPS_M x WARPS_N x WARPS_K warps over pixels x outputs
// x inputs; CHUNK inputs a step; STAGES. OUTER_N tells the order of the packed core matrices: [N / 8][K / 8] if true,
// else [K / 16][N / 8][2]. ADDS_RESIDUAL adds a tensor like the output; `static float activate(float)` is applied
// before.
#pragma once
#include "tile/index.cuh"
#include "tile/ring.cuh"
#include "tile/store.cuh"

template <class Spec>
struct PointwiseShape {
    static constexpr int GROUP = 32 * Spec::WARPS_M * Spec::WARPS_N;  // threads of one warp group along k
    static constexpr int THREADS = GROUP * Spec::WARPS_K;
    static constexpr int M_TILES = Spec::PIXELS / Spec::WARPS_M / 16;
    static constexpr int OUTPUTS = Spec::N / Spec::SPLIT;     // of one work item
    static constexpr int BLOCKS = OUTPUTS / 16;               // weight blocks across them
    static constexpr int MY_BLOCKS = BLOCKS / Spec::WARPS_N;  // of one warp
    static constexpr int STEP_BLOCKS = Spec::CHUNK / 16;      // weight blocks along k of one step
    static constexpr int STEPS = Spec::K / Spec::CHUNK;
    // Bytes from the core matrices of 8 outputs to the next ones, and from a block of 16 inputs to the next, in a slot.
    static constexpr int N8_STRIDE = Spec::OUTER_N ? Spec::CHUNK * 16 : 2 * CORE_BYTES;
    static constexpr int K16_STRIDE = Spec::OUTER_N ? 2 * CORE_BYTES : BLOCKS * BLOCK_BYTES;
    static_assert(M_TILES * 16 * Spec::WARPS_M == Spec::PIXELS, "warps tile the pixels");
    static_assert(MY_BLOCKS * Spec::WARPS_N * 16 * Spec::SPLIT == Spec::N, "warps tile the outputs");
    static_assert(STEPS * Spec::CHUNK == Spec::K && STEP_BLOCKS % Spec::WARPS_K == 0, "steps tile the inputs");

    // Shared memory: ring slots (input pixels, then weights), the output tile, and the partial sums of every warp group
    // along k but the first.
    static constexpr int IN_PITCH = pitch_bytes(Spec::CHUNK);
    static constexpr int IN_BYTES = Spec::PIXELS * IN_PITCH;
    static constexpr int SLOT = IN_BYTES + STEP_BLOCKS * BLOCKS * BLOCK_BYTES;
    static constexpr int OUT_PITCH = pitch_bytes(OUTPUTS);
    static constexpr int OUT = Spec::STAGES * SLOT;
    static constexpr int PARTIAL = OUT + Spec::PIXELS * OUT_PITCH;
    static constexpr int BYTES = PARTIAL + (Spec::WARPS_K - 1) * Spec::PIXELS * OUTPUTS * 4;
    using Accumulators = float[M_TILES][2 * MY_BLOCKS][4];
};

// Inputs as they lie in a tensor of K channels.
template <class T, int K>
struct PixelInput {
    const T* in;

    __device__ void copy(unsigned char* to, int pixel, int unit, bool real) const {
        cp_async_16(to, in + static_cast<long long>(pixel) * K + unit * 8, real);
    }
};

// Copies for one step: a chunk of the item's input pixels and the weights that meet it.
template <class Spec, class Input>
struct LoadPointwiseStep {
    using Shape = PointwiseShape<Spec>;
    Input in;
    const unsigned char* weights;
    int pixels, items;
    int item, chunk;  // the next step

    __device__ LoadPointwiseStep(const Input& in, const unsigned char* weights, int pixels, int items)
        : in(in), weights(weights), pixels(pixels), items(items), item(blockIdx.x), chunk(0) {}

    __device__ void operator()(unsigned char* slot) {
        if (item >= items) return;
        constexpr int UNITS = Spec::CHUNK / 8;
        const int first = item / Spec::SPLIT * Spec::PIXELS, split = item % Spec::SPLIT;
        share_out<Shape::THREADS, Spec::PIXELS * UNITS>(threadIdx.x, [&](int i) {
            const int pixel = i / UNITS, unit = i % UNITS;
            in.copy(slot + pixel * Shape::IN_PITCH + unit * 16, first + pixel, chunk * UNITS + unit,
                    inside(first + pixel, pixels));
        });
        if constexpr (Spec::OUTER_N) {
            constexpr int ROW = Spec::K * 16;  // core matrices of 8 outputs
            copy_async<Shape::THREADS, Shape::OUTPUTS / 8, Shape::N8_STRIDE>(
                slot + Shape::IN_BYTES, weights + split * Shape::OUTPUTS / 8 * ROW + chunk * Shape::N8_STRIDE, ROW);
        } else {
            constexpr int N_BLOCKS = Spec::N / 16;
            const int block = chunk * Shape::STEP_BLOCKS * N_BLOCKS + split * Shape::BLOCKS;
            copy_async<Shape::THREADS, Shape::STEP_BLOCKS, Shape::BLOCKS * BLOCK_BYTES>(
                slot + Shape::IN_BYTES, weights + block * BLOCK_BYTES, N_BLOCKS * BLOCK_BYTES);
        }
        if (++chunk == Shape::STEPS) {
            chunk = 0;
            item += gridDim.x;
        }
    }
};

// Adds the other warp groups' partial sums along k to the first group's, in a fixed order. `thread` counts the threads
// of a group; each reads what its counterparts wrote.
template <class Spec>
__device__ inline void reduce(typename PointwiseShape<Spec>::Accumulators& acc, unsigned char* partial, int group,
                              int thread) {
    using Shape = PointwiseShape<Spec>;
    constexpr int N_TILES = 2 * Shape::MY_BLOCKS, TILES = Shape::M_TILES * N_TILES;
    if (group > 0) {
#pragma unroll
        for (int t = 0; t < TILES; ++t)
            store_shared_f32x4(partial + (((group - 1) * TILES + t) * Shape::GROUP + thread) * 16,
                               acc[t / N_TILES][t % N_TILES]);
    }
    __syncthreads();
    if (group == 0) {
        for (int other = 0; other < Spec::WARPS_K - 1; ++other)
#pragma unroll
            for (int t = 0; t < TILES; ++t)
                add_shared_f32x4(acc[t / N_TILES][t % N_TILES],
                                 partial + ((other * TILES + t) * Shape::GROUP + thread) * 16);
    }
}

template <class T, class Spec, class Input>
__device__ inline void pointwise(unsigned char* shared, const Input& in, const unsigned char* weights,
                                 const float* bias, const T* residual, T* out, int pixels) {
    using Shape = PointwiseShape<Spec>;
    const int group = threadIdx.x / Shape::GROUP;
    const Place<Spec::WARPS_N> at(threadIdx.x % Shape::GROUP);
    const int items = ceil_div(pixels, Spec::PIXELS) * Spec::SPLIT;
    const int first_row = at.warp_m * Shape::M_TILES * 16, first_block = at.warp_n * Shape::MY_BLOCKS;
    const int my_weights = Shape::IN_BYTES + first_block * 2 * Shape::N8_STRIDE + core_row(Shape::N8_STRIDE, at.lane);
    LoadPointwiseStep<Spec, Input> load(in, weights, pixels, items);
    Ring<Spec::STAGES, Shape::SLOT, LoadPointwiseStep<Spec, Input>> ring(shared, load);

    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        const int first_pixel = item / Spec::SPLIT * Spec::PIXELS, first_output = item % Spec::SPLIT * Shape::OUTPUTS;
        typename Shape::Accumulators acc = {};
        for (int chunk = 0; chunk < Shape::STEPS; ++chunk) {
            const unsigned char* const slot = ring.next();
            ring.refill();
#pragma unroll
            for (int i = 0; i < Shape::STEP_BLOCKS / Spec::WARPS_K; ++i) {
                const int k = i * Spec::WARPS_K + group;
                u32 a[Shape::M_TILES][4];
#pragma unroll
                for (int m = 0; m < Shape::M_TILES; ++m)
                    load_a(a[m], slot + (first_row + m * 16) * Shape::IN_PITCH + k * 32, Shape::IN_PITCH, at.lane);
                multiply<T, Shape::M_TILES, Shape::MY_BLOCKS>(acc, a, slot + my_weights + k * Shape::K16_STRIDE,
                                                              2 * Shape::N8_STRIDE);
            }
        }
        if constexpr (Spec::WARPS_K > 1) reduce<Spec>(acc, shared + Shape::PARTIAL, group, threadIdx.x % Shape::GROUP);
        unsigned char* const tile = shared + Shape::OUT;
        if (group == 0) {
#pragma unroll
            for (int n = 0; n < 2 * Shape::MY_BLOCKS; ++n) {
                const FloatPair b = load_global_f32x2(bias + first_output + first_block * 16 + n * 8 + at.col);
#pragma unroll
                for (int m = 0; m < Shape::M_TILES; ++m) {
                    add_to_accumulator(acc[m][n], b);
#pragma unroll
                    for (int i = 0; i < 4; ++i) acc[m][n][i] = Spec::activate(acc[m][n][i]);
                }
            }
            store_tile<T>(tile + first_row * Shape::OUT_PITCH + first_block * 32, Shape::OUT_PITCH, acc, at.lane);
        }
        __syncthreads();
        store_rows<T, Shape::THREADS, Spec::PIXELS, Shape::OUTPUTS, Spec::ADDS_RESIDUAL>(
            out + first_output, Spec::ADDS_RESIDUAL ? residual + first_output : nullptr, Spec::N, tile,
            Shape::OUT_PITCH, threadIdx.x,
            [&](int row) { return inside(first_pixel + row, pixels) ? first_pixel + row : -1; });
    }
}
