// A pointwise layer on wgmma: out = epilogue(in W + b), a matmul over flat pixels with both operands in shared memory.
//
// A column is a channel in 16 bits, or two in e4m3: 8 of them are a row of a core matrix whatever the type. Between
// kernels a tensor is stored as core matrices: for every 64 pixels and every 64 columns (32 where 64 do not divide the
// tensor's) 8 KB, in which the core matrix of pixels 8 p and columns 8 c is the (8 c + p)-th. So a step's operand is
// one bulk copy, and a register of an accumulator rounded to the type is one contiguous store of the warp. For that,
// 16 e4m3 channels of a row are in the order 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15, and so are the weights' inputs.
//
// A Spec gives the type Operand of what is multiplied, and as constexpr int the sizes: K columns in and N channels out;
// WARPGROUPS of 64 pixels each; OUTPUTS, the channels of one work item; STAGES of K_STEP columns; CLUSTER CTAs that
// work on neighbouring pixels at a time, and load the weights for one another. OUTER_N tells the order of the packed
// weights: [N][K] if true, else 16 of K after 16 of K. `static float activate(float x, float bias)` gives act(x +
// bias). `bias` is followed, with e4m3 operands, by a scale of each sum and then, unless LAST, one of each output: h =
// e4m3(act(scale x + bias) scale'). LAST says that the output is the block's, in its plain layout; ADDS_RESIDUAL then
// adds a tensor like it. DEFERRED keeps two sets of accumulators and stores an item's results while the tensor cores
// multiply the next one's. SWIZZLED says that a slot's pixels are not core matrices but rows of 128 bytes, whose
// 16-byte unit u lies at unit u ^ pixel % 8.
#pragma once
#include "ptx/grid_order.cuh"
#include "ptx/register_share.cuh"
#include "ptx/wgmma.cuh"
#include "tile/cluster_ring.cuh"
#include "tile/index.cuh"
#include "tile/store.cuh"

constexpr int CORE_BLOCK = 64;  // pixels of a block of core matrices

// Columns of a block, in a tensor of so many.
__host__ __device__ constexpr int block_columns(int columns) { return columns % 64 == 0 ? 64 : 32; }

// Where a warp's 16 pixels from `pixel` on and 16 columns from `column` on begin; the four core matrices that make
// its A fragment lie 128 and 1024 bytes apart.
__device__ inline long long core_offset(int pixel, int column, int columns) {
    const int width = block_columns(columns);
    const long long block = static_cast<long long>(pixel / CORE_BLOCK) * (columns / width) + column / width;
    return block * (CORE_BLOCK * width * 2) + column % width / 8 * 1024 + pixel % CORE_BLOCK / 8 * 128;
}

// Stores an A fragment as four core matrices, or two of e4m3.
template <int Words>
__device__ inline void store_cores(unsigned char* to, const u32 (&a)[Words], int lane) {
#pragma unroll
    for (int i = 0; i < Words; ++i) store_global_u32(to + i / 2 * 1024 + i % 2 * 128 + lane * 4, a[i]);
}

template <class Spec>
struct WgmmaShape {
    static constexpr bool FLOAT8 = sizeof(typename Spec::Operand) == 1;
    static constexpr int VECTORS = FLOAT8 ? (Spec::LAST ? 2 : 3) : 1;  // biases and scales
    static constexpr int OUT_COLUMNS = Spec::N / (FLOAT8 && !Spec::LAST ? 2 : 1);
    static constexpr int K_STEP = block_columns(Spec::K);
    static constexpr int PIXELS = 64 * Spec::WARPGROUPS;
    static constexpr int CONSUMERS = 128 * Spec::WARPGROUPS;
    static constexpr int THREADS = CONSUMERS + 128;
    static constexpr int STEPS = Spec::K / K_STEP;
    static constexpr int SPLIT = Spec::N / Spec::OUTPUTS;
    using Cluster = ClusterRing<Spec::CLUSTER>;
    static_assert(STEPS * K_STEP == Spec::K && SPLIT * Spec::OUTPUTS == Spec::N, "steps and items tile the channels");

    // Shared memory: slots (input pixels, then weights), vectors, barriers.
    static constexpr int IN_BLOCK_BYTES = CORE_BLOCK * K_STEP * 2;
    static constexpr int IN_BYTES = Spec::WARPGROUPS * IN_BLOCK_BYTES;
    static constexpr int WEIGHT_BYTES = Spec::OUTPUTS * K_STEP * 2;
    static constexpr int SLOT = IN_BYTES + WEIGHT_BYTES;
    static constexpr int BIAS = Spec::STAGES * SLOT;
    static constexpr int BARRIERS = BIAS + VECTORS * Spec::N * 4;
    static constexpr int BYTES = BARRIERS + (1 + 2 * Spec::STAGES) * 8;
    static_assert(!Spec::SWIZZLED || K_STEP == 64, "a row is 128 bytes");
    using Accumulators = float[Spec::OUTPUTS / 8][4];
    // With three consumer warpgroups, ptxas rejects instructions of more outputs than the kernel's entry has registers
    // for.
    static constexpr int PARTS = Spec::WARPGROUPS == 3 && Spec::OUTPUTS > 192 ? 2 : 1;
    using Part = float[Spec::OUTPUTS / PARTS / 8][4];

    // Results are stored in slices of channels; if deferred, some during each of the next item's first steps.
    static constexpr int SLICE_BLOCKS = Spec::LAST ? 2 : 1;  // of 16 channels
    static constexpr int SLICES = Spec::OUTPUTS / 16 / SLICE_BLOCKS;
    static_assert(SLICES * SLICE_BLOCKS * 16 == Spec::OUTPUTS, "slices tile the outputs");
    static constexpr int STEP_SLICES = ceil_div(SLICES, STEPS);
    static constexpr int STORING_STEPS = Spec::DEFERRED ? ceil_div(SLICES, STEP_SLICES) : 1;

    // A cluster's work item is as many tiles of pixels as it has CTAs, maybe beyond the tensor, and OUTPUTS channels.
    static __device__ int items(int pixels) { return ceil_div(pixels, Spec::CLUSTER * PIXELS) * SPLIT; }
    static __device__ int first_item() { return blockIdx.x / Spec::CLUSTER; }
    static __device__ int next_item() { return gridDim.x / Spec::CLUSTER; }
    // This CTA's tile.
    static __device__ int tile(int item) { return item / SPLIT * Spec::CLUSTER + Cluster::rank(); }
};

template <class Spec>
struct WgmmaBarriers {
    Barrier biases, full[Spec::STAGES], empty[Spec::STAGES];

    __device__ void initialise() {
        mbarrier_init(&biases, 1);
        for (int i = 0; i < Spec::STAGES; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], Spec::CLUSTER * WgmmaShape<Spec>::CONSUMERS / 32);
        }
        mbarrier_init_fence();
    }
};

// One warp copies the biases and scales, and each step's pixels and its share of the weights.
template <class Spec>
__device__ inline void load_steps(unsigned char* shared, WgmmaBarriers<Spec>& barriers, const unsigned char* in,
                                  const unsigned char* weights, const float* bias, int pixels, int items) {
    using Shape = WgmmaShape<Spec>;
    // Contiguous pieces of a step's weights, in global and in shared memory.
    constexpr int PIECES = Spec::OUTER_N ? Spec::OUTPUTS / 8 : Shape::K_STEP / 16;
    constexpr int PIECE = Shape::WEIGHT_BYTES / PIECES;
    constexpr int STRIDE = Spec::OUTER_N ? Spec::K * 16 : Spec::N * 32;
    const int lane = threadIdx.x % 32;
    const int last_block = ceil_div(pixels, CORE_BLOCK) - 1;
    if (lane == 0) {
        mbarrier_arrive_expect(&barriers.biases, Shape::BARRIERS - Shape::BIAS);
        bulk_copy(shared + Shape::BIAS, bias, Shape::BARRIERS - Shape::BIAS, &barriers.biases);
    }
    wait_for_kernel_before();  // which made `in`
    Slots<Spec::STAGES> slot;
    for (int item = Shape::first_item(); item < items; item += Shape::next_item()) {
        const unsigned char* w = weights + item % Shape::SPLIT * Spec::OUTPUTS * (Spec::OUTER_N ? Spec::K * 2 : 32);
        // A warpgroup beyond the tensor multiplies its last block once more, and stores nothing.
        const int block = min(Shape::tile(item) * Spec::WARPGROUPS + lane, last_block);
        const unsigned char* a = in + static_cast<long long>(block) * Shape::STEPS * Shape::IN_BLOCK_BYTES;
        for (int step = 0; step < Shape::STEPS; ++step) {
            mbarrier_wait(&barriers.empty[slot.index], slot.parity ^ 1);
            Barrier* const full = &barriers.full[slot.index];
            unsigned char* const to = shared + slot.index * Shape::SLOT;
            if (lane == 0) mbarrier_arrive_expect(full, Shape::SLOT);
            __syncwarp();
            if (lane < Spec::WARPGROUPS) bulk_copy(to + lane * Shape::IN_BLOCK_BYTES, a, Shape::IN_BLOCK_BYTES, full);
            for (int i = lane * Spec::CLUSTER + Shape::Cluster::rank(); i < PIECES; i += 32 * Spec::CLUSTER)
                Shape::Cluster::load(to + Shape::IN_BYTES + i * PIECE, w + i * STRIDE, PIECE, full);
            a += Shape::IN_BLOCK_BYTES;
            w += Spec::OUTER_N ? Shape::K_STEP * 16 : Shape::K_STEP / 16 * STRIDE;
            slot.advance();
        }
    }
    Shape::Cluster::drain(barriers.empty, slot);
}

// What finishes a thread's sums of two channels: biases, and with e4m3 operands scales.
template <class Spec>
struct Epilogue {
    static constexpr int VECTORS = WgmmaShape<Spec>::VECTORS;
    FloatPair v[VECTORS];

    // `bias` is that of the first of the two.
    __device__ explicit Epilogue(const unsigned char* bias) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) v[i] = load_shared_f32x2(bias + i * Spec::N * 4);
    }
    __device__ float low(float sum) const {
        if constexpr (VECTORS == 1)
            return Spec::activate(sum, v[0].low);
        else
            return scaled(Spec::activate(sum * v[1].low, v[0].low), v[VECTORS - 1].low);
    }
    __device__ float high(float sum) const {
        if constexpr (VECTORS == 1)
            return Spec::activate(sum, v[0].high);
        else
            return scaled(Spec::activate(sum * v[1].high, v[0].high), v[VECTORS - 1].high);
    }
    static __device__ float scaled(float out, float scale) { return VECTORS == 3 ? out * scale : out; }
};

// Finishes the accumulators of 16 channels, of which `bias` is the first's: an A fragment.
template <class T, class Spec>
__device__ inline void finish_block(u32 (&a)[4], const float (&left)[4], const float (&right)[4],
                                    const unsigned char* bias, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float (&acc)[4] = half ? right : left;
        const Epilogue<Spec> epilogue(bias + half * 32 + lane % 4 * 8);
        a[2 * half] = pack<T>(epilogue.low(acc[0]), epilogue.high(acc[1]));
        a[2 * half + 1] = pack<T>(epilogue.low(acc[2]), epilogue.high(acc[3]));
    }
}

// The same, as rows of two core matrices of e4m3.
template <class Spec>
__device__ inline void finish_rows(u32 (&rows)[2], const float (&left)[4], const float (&right)[4],
                                   const unsigned char* bias, int lane) {
    const Epilogue<Spec> low(bias + lane % 4 * 8), high(bias + 32 + lane % 4 * 8);
#pragma unroll
    for (int i = 0; i < 4; i += 2)
        rows[i / 2] = pack_e4m3(low.low(left[i]), low.high(left[i + 1]), high.low(right[i]), high.high(right[i + 1]));
}

// Lane q's n-th word becomes lane n's q-th, of the four lanes of a quad.
__device__ inline void transpose_quad(u32 (&words)[4], int lane) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        const bool upper = lane & step;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & step) continue;
            u32 &low = words[i], &high = words[i + step];
            const u32 other = __shfl_xor_sync(~0u, upper ? low : high, step);
            low = upper ? other : low;
            high = upper ? high : other;
        }
    }
}

// Stores a warp's 16 pixels of an item. Registers are scarce, so what follows from the item is computed anew.
template <class T, class Spec>
struct StoreItem {
    using Shape = WgmmaShape<Spec>;
    unsigned char* shared;
    const T* residual;
    T* out;
    int pixels;
    int item = 0;

    __device__ int first() const { return Shape::tile(item) * Shape::PIXELS + threadIdx.x / 32 * 16; }
    __device__ int output() const { return item % Shape::SPLIT * Spec::OUTPUTS; }

    // Slices `from` to `to`, constants once inlined.
    __device__ void store(const typename Shape::Accumulators& acc, int from, int to) const {
#pragma unroll
        for (int slice = from; slice < to; ++slice) {
            if constexpr (Spec::LAST)
                store_pixels(acc, slice * Shape::SLICE_BLOCKS);
            else
                store_block(acc, slice);
        }
    }

    // The n-th 16 channels to a tensor of core matrices.
    __device__ void store_block(const typename Shape::Accumulators& acc, int n) const {
        const int lane = threadIdx.x % 32;
        if (first() / CORE_BLOCK * CORE_BLOCK >= pixels) return;
        constexpr int COLUMNS = Shape::OUT_COLUMNS, IN_COLUMN = Spec::N / COLUMNS;  // channels
        const unsigned char* const bias = shared + Shape::BIAS + output() * 4 + n * 64;
        u32 words[Shape::FLOAT8 ? 2 : 4];
        if constexpr (Shape::FLOAT8)
            finish_rows<Spec>(words, acc[2 * n], acc[2 * n + 1], bias, lane);
        else
            finish_block<T, Spec>(words, acc[2 * n], acc[2 * n + 1], bias, lane);
        unsigned char* const to =
            reinterpret_cast<unsigned char*>(out) + core_offset(first(), output() / IN_COLUMN, COLUMNS);
        store_cores(to + core_offset(0, n * 16 / IN_COLUMN, COLUMNS), words, lane);
    }

    // 32 channels from the n-th 16 on to the block's output. A lane has two of every eight channels of two pixels;
    // after an exchange with its quad it has all of one eight, so that it stores 16 bytes of each pixel.
    __device__ void store_pixels(const typename Shape::Accumulators& acc, int n) const {
        const int lane = threadIdx.x % 32, channel = output() + n * 16;
        const unsigned char* const bias = shared + Shape::BIAS + channel * 4;
        Vec16 rows[2];
#pragma unroll
        for (int i = 0; i < Shape::SLICE_BLOCKS; ++i) {
            u32 a[4];
            finish_block<T, Spec>(a, acc[2 * (n + i)], acc[2 * (n + i) + 1], bias + i * 64, lane);
#pragma unroll
            for (int j = 0; j < 4; ++j) rows[j % 2].word[2 * i + j / 2] = a[j];
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int pixel = first() + lane / 4 + i * 8;
            const bool stored = inside(pixel, pixels);
            const long long at = static_cast<long long>(stored ? pixel : 0) * Spec::N + channel + lane % 4 * 8;
            transpose_quad(rows[i].word, lane);
            if constexpr (Spec::ADDS_RESIDUAL) rows[i] = add_packed<T>(rows[i], load_global_16(residual + at));
            if (stored) store_global_16(out + at, rows[i]);
        }
    }
};

// Starts one step's multiplication of a warpgroup's 64 pixels.
template <class Spec, bool Accumulate>
__device__ inline void start_step(typename WgmmaShape<Spec>::Accumulators& acc, const unsigned char* slot) {
    using Shape = WgmmaShape<Spec>;
    constexpr int ALONG_ROWS = Spec::OUTER_N ? Shape::K_STEP * 16 : 256;
    constexpr int K16 = Spec::OUTER_N ? 256 : Spec::OUTPUTS * 32;  // bytes from one k16 step of the weights to the next
    constexpr int A_K16 = Spec::SWIZZLED ? 32 : 2048;
    const unsigned char* const pixels = slot + threadIdx.x / 128 * Shape::IN_BLOCK_BYTES;
    const u64 a = Spec::SWIZZLED ? wgmma_swizzled_descriptor(pixels) : wgmma_descriptor(pixels, 1024, 128);
    const u64 b = wgmma_descriptor(slot + Shape::IN_BYTES, 128, ALONG_ROWS);
    wgmma_pin(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::K_STEP / 16; ++k) {
#pragma unroll
        for (int part = 0; part < Shape::PARTS; ++part) {
            auto& sums = reinterpret_cast<typename Shape::Part&>(acc[part * Spec::OUTPUTS / Shape::PARTS / 8]);
            const u64 b_part = wgmma_advance(b, k * K16 + part * Spec::OUTPUTS / Shape::PARTS / 8 * ALONG_ROWS);
            if (k == 0)
                wgmma<typename Spec::Operand, Accumulate>(sums, a, b_part);
            else
                wgmma<typename Spec::Operand, true>(sums, wgmma_advance(a, k * A_K16), b_part);
        }
    }
    wgmma_commit();
}

// A consumer's walk through the slots.
template <class Spec>
struct Consumer {
    using Shape = WgmmaShape<Spec>;
    unsigned char* shared;
    WgmmaBarriers<Spec>& barriers;
    Slots<Spec::STAGES> slot = {};
    static_assert(Spec::STAGES >= 2, "a step is started before the one before it is finished");

    template <bool Accumulate>
    __device__ void start(typename Shape::Accumulators& acc) {
        mbarrier_wait(&barriers.full[slot.index], slot.parity);
        start_step<Spec, Accumulate>(acc, shared + slot.index * Shape::SLOT);
        slot.advance();
    }

    // Waits for all but the last `Pending` steps that were started, and frees the slot of the last one waited for.
    template <int Pending>
    __device__ void finish() {
        wgmma_wait<Pending>();
        const int done = slot.index - 1 - Pending;
        Shape::Cluster::release(&barriers.empty[done < 0 ? done + Spec::STAGES : done]);
    }

    // Multiplies an item; calls meanwhile(step) while each of the first STORING_STEPS steps is under way.
    template <class Meanwhile>
    __device__ void multiply(typename Shape::Accumulators& acc, Meanwhile meanwhile) {
        start<false>(acc);
        meanwhile(0);
#pragma unroll
        for (int step = 1; step < Shape::STORING_STEPS; ++step) {
            start<true>(acc);
            meanwhile(step);
            finish<1>();
        }
        for (int step = Shape::STORING_STEPS; step < Shape::STEPS; ++step) {
            start<true>(acc);
            finish<1>();
        }
        finish<0>();
        wgmma_pin(acc);
    }
};

template <class T, class Spec>
__device__ inline void multiply_items(Consumer<Spec> consumer, StoreItem<T, Spec> results, int items) {
    using Shape = WgmmaShape<Spec>;
    for (int item = Shape::first_item(); item < items; item += Shape::next_item()) {
        typename Shape::Accumulators acc;
        consumer.multiply(acc, [](int) {});
        results.item = item;
        results.store(acc, 0, Shape::SLICES);
    }
}

// The same with two sets of accumulators, each stored during the multiplication of the other.
template <class T, class Spec>
__device__ inline void multiply_items_deferred(Consumer<Spec> consumer, StoreItem<T, Spec> results, int items) {
    using Shape = WgmmaShape<Spec>;
    typename Shape::Accumulators even, odd = {};
    auto multiply = [&](typename Shape::Accumulators& acc, const typename Shape::Accumulators& previous) {
        consumer.multiply(acc, [&](int step) {
            results.store(previous, step * Shape::STEP_SLICES, min((step + 1) * Shape::STEP_SLICES, Shape::SLICES));
        });
    };
    results.item = items;  // beyond the tensor: nothing to store before the first item
    for (int item = Shape::first_item(); item < items; item += Shape::next_item()) {
        // Nothing is under way here, but unless told so, ptxas serialises every multiplication.
        wgmma_wait<0>();
        wgmma_pin(odd);
        multiply(even, odd);
        results.item = item;
        item += Shape::next_item();
        if (item >= items) return results.store(even, 0, Shape::SLICES);
        multiply(odd, even);
        results.item = item;
    }
    results.store(odd, 0, Shape::SLICES);
}

// `in` is a tensor of core matrices, and so is `out` unless LAST.
template <class T, class Spec>
__device__ inline void pointwise_wgmma(unsigned char* shared, const unsigned char* in, const unsigned char* weights,
                                       const float* bias, const T* residual, T* out, int pixels) {
    using Shape = WgmmaShape<Spec>;
    WgmmaBarriers<Spec>& barriers = *reinterpret_cast<WgmmaBarriers<Spec>*>(shared + Shape::BARRIERS);
    const int items = Shape::items(pixels);
    let_kernel_after_begin();
    if (threadIdx.x == 0) barriers.initialise();
    __syncthreads();
    Shape::Cluster::meet();
    if (threadIdx.x < Shape::CONSUMERS) {
        raise_registers<Spec::CONSUMER_REGISTERS>();
        mbarrier_wait(&barriers.biases, 0);
        const Consumer<Spec> consumer{shared, barriers};
        const StoreItem<T, Spec> results{shared, residual, out, pixels};
        if constexpr (Spec::DEFERRED)
            multiply_items_deferred(consumer, results, items);
        else
            multiply_items(consumer, results, items);
    } else {
        lower_registers<Spec::PRODUCER_REGISTERS>();
        if (threadIdx.x < Shape::CONSUMERS + 32) load_steps<Spec>(shared, barriers, in, weights, bias, pixels, items);
    }
}
