// A pointwise layer on wgmma whose warpgroups take turns: each multiplies a work item of its own, and while it finishes
// and stores that, the others keep the tensor cores busy.
//
// Tensors and Spec are those of tile/pointwise_wgmma.cuh, but an item has TURNS blocks of 64 pixels, whatever the
// number of WARPGROUPS. It is not for a block's LAST layer.
#pragma once
#include "tile/pointwise_wgmma.cuh"

// The shape of an item, slots and producers: as if TURNS warpgroups shared it.
template <class Spec>
struct OneTurn : Spec {
    static constexpr int WARPGROUPS = Spec::TURNS;
};

template <class Spec>
struct Turns {
    using Shape = WgmmaShape<OneTurn<Spec>>;
    using Sums = typename Shape::Accumulators[Spec::TURNS];
    static constexpr int CONSUMERS = 128 * Spec::WARPGROUPS;
    static constexpr int BYTES = Shape::BYTES + Spec::WARPGROUPS * 8;
    static_assert(!Spec::LAST && !Spec::DEFERRED && Shape::PARTS == 1, "an item is finished by its warpgroup alone");

    static_assert(Spec::WARPGROUPS > 1, "there is someone to take turns with");
};

template <class Spec>
struct TurnBarriers {
    WgmmaBarriers<OneTurn<Spec>> ring;
    // A warpgroup's own: the one before it is about to be done with the slots. So its waits for slots are never more
    // than a phase ahead of them, and its multiplication comes when the tensor cores are free.
    Barrier turn[Spec::WARPGROUPS];

    __device__ void initialise() {
        mbarrier_init(&ring.biases, 1);
        for (int i = 0; i < Spec::STAGES; ++i) {
            mbarrier_init(&ring.full[i], 1);
            mbarrier_init(&ring.empty[i], Spec::CLUSTER * 4);  // the warps of the warpgroup whose turn it is
        }
        for (int i = 0; i < Spec::WARPGROUPS; ++i) mbarrier_init(&turn[i], 128);
        mbarrier_init_fence();
    }
};

// Starts one step's multiplication of all blocks of an item.
template <class Spec, bool Accumulate>
__device__ inline void start_turn(typename Turns<Spec>::Sums& sums, const unsigned char* slot) {
    using Shape = typename Turns<Spec>::Shape;
    constexpr int ALONG_ROWS = Spec::OUTER_N ? Shape::K_STEP * 16 : 256;
    constexpr int K16 = Spec::OUTER_N ? 256 : Spec::OUTPUTS * 32;
    const u64 a = wgmma_descriptor(slot, 1024, 128);
    const u64 b = wgmma_descriptor(slot + Shape::IN_BYTES, 128, ALONG_ROWS);
#pragma unroll
    for (int block = 0; block < Spec::TURNS; ++block) wgmma_pin(sums[block]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Shape::K_STEP / 16; ++k) {
#pragma unroll
        for (int block = 0; block < Spec::TURNS; ++block) {
            const u64 a_block = wgmma_advance(a, block * Shape::IN_BLOCK_BYTES + k * 2048);
            if (k == 0)
                wgmma<typename Spec::Operand, Accumulate>(sums[block], a_block, b);
            else
                wgmma<typename Spec::Operand, true>(sums[block], a_block, wgmma_advance(b, k * K16));
        }
    }
    wgmma_commit();
}

// Multiplies an item, whose first step is in `slot`, leaves that behind its last, and tells the `next` warpgroup.
template <class Spec>
__device__ inline void multiply_turn(typename Turns<Spec>::Sums& sums, const unsigned char* shared,
                                     WgmmaBarriers<OneTurn<Spec>>& barriers, Slots<Spec::STAGES>& slot, Barrier* next) {
    using Shape = typename Turns<Spec>::Shape;
    int before = 0;
    for (int step = 0; step < Shape::STEPS; ++step) {
        mbarrier_wait(&barriers.full[slot.index], slot.parity);
        const unsigned char* const from = shared + slot.index * Shape::SLOT;
        if (step == 0) {
            start_turn<Spec, false>(sums, from);
        } else {
            start_turn<Spec, true>(sums, from);
            wgmma_wait<1>();
            Shape::Cluster::release(&barriers.empty[before]);
        }
        before = slot.index;
        slot.advance();
    }
    mbarrier_arrive(next);
    wgmma_wait<0>();
    Shape::Cluster::release(&barriers.empty[before]);
#pragma unroll
    for (int block = 0; block < Spec::TURNS; ++block) wgmma_pin(sums[block]);
}

// Stores a warp's 16 pixels of a block of an item, from `first` on.
template <class T, class Spec>
__device__ inline void store_turn(const typename Turns<Spec>::Shape::Accumulators& sums, const unsigned char* biases,
                                  unsigned char* out, int first, int output) {
    using Shape = typename Turns<Spec>::Shape;
    constexpr int COLUMNS = Shape::OUT_COLUMNS, IN_COLUMN = Spec::N / COLUMNS;  // channels
    const int lane = threadIdx.x % 32;
    unsigned char* const to = out + core_offset(first, output / IN_COLUMN, COLUMNS);
#pragma unroll
    for (int n = 0; n < Spec::OUTPUTS / 16; ++n) {
        const unsigned char* const bias = biases + output * 4 + n * 64;
        u32 words[Shape::FLOAT8 ? 2 : 4];
        if constexpr (Shape::FLOAT8)
            finish_rows<Spec>(words, sums[2 * n], sums[2 * n + 1], bias, lane);
        else
            finish_block<T, Spec>(words, sums[2 * n], sums[2 * n + 1], bias, lane);
        store_cores(to + core_offset(0, n * 16 / IN_COLUMN, COLUMNS), words, lane);
    }
}

// What a warpgroup does: its turns, one in WARPGROUPS of the CTA's items.
template <class T, class Spec>
__device__ inline void take_turns(unsigned char* shared, TurnBarriers<Spec>& barriers, unsigned char* out, int pixels,
                                  int items) {
    using Shape = typename Turns<Spec>::Shape;
    const int mine = threadIdx.x / 128;
    Barrier* const next = &barriers.turn[mine + 1 == Spec::WARPGROUPS ? 0 : mine + 1];
    Slots<Spec::STAGES> slot;
    int until_mine = mine;   // items
    u32 parity = mine == 0;  // of the turn that is waited for; nobody hands over the very first one
    for (int item = Shape::first_item(); item < items; item += Shape::next_item()) {
        if (until_mine > 0) {
            --until_mine;
            for (int step = 0; step < Shape::STEPS; ++step) slot.advance();
            continue;
        }
        until_mine = Spec::WARPGROUPS - 1;
        mbarrier_wait(&barriers.turn[mine], parity);
        parity ^= 1;
        typename Turns<Spec>::Sums sums;
        multiply_turn<Spec>(sums, shared, barriers.ring, slot, next);
        const int first = Shape::tile(item) * Shape::PIXELS, output = item % Shape::SPLIT * Spec::OUTPUTS;
#pragma unroll
        for (int block = 0; block < Spec::TURNS; ++block)
            if (inside(first + block * CORE_BLOCK, pixels))
                store_turn<T, Spec>(sums[block], shared + Shape::BIAS, out,
                                    first + block * CORE_BLOCK + threadIdx.x % 128 / 32 * 16, output);
    }
}

// `in` and `out` are tensors of core matrices.
template <class T, class Spec>
__device__ inline void pointwise_turns(unsigned char* shared, const unsigned char* in, const unsigned char* weights,
                                       const float* bias, unsigned char* out, int pixels) {
    using Shape = typename Turns<Spec>::Shape;
    auto& barriers = *reinterpret_cast<TurnBarriers<Spec>*>(shared + Shape::BARRIERS);
    const int items = Shape::items(pixels);
    let_kernel_after_begin();
    if (threadIdx.x == 0) barriers.initialise();
    __syncthreads();
    Shape::Cluster::meet();
    if (threadIdx.x < Turns<Spec>::CONSUMERS) {
        raise_registers<Spec::CONSUMER_REGISTERS>();
        mbarrier_wait(&barriers.ring.biases, 0);
        take_turns<T, Spec>(shared, barriers, out, pixels, items);
    } else {
        lower_registers<Spec::PRODUCER_REGISTERS>();
        if (threadIdx.x < Turns<Spec>::CONSUMERS + 32)
            load_steps<OneTurn<Spec>>(shared, barriers.ring, in, weights, bias, pixels, items);
    }
}
