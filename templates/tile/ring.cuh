// A ring of shared-memory slots filled by cp.async, Stages - 1 steps ahead of their use.
#pragma once
#include "ptx/cp_async.cuh"

// `Load` has `operator()(unsigned char* slot)`, which issues this thread's copies of the next step.
template <int Stages, int SlotBytes, class Load>
struct Ring {
    static_assert(Stages >= 2, "one slot is read while another is filled");
    unsigned char* slots;
    Load load;
    int fill = 0;
    int use = 0;

    __device__ Ring(unsigned char* slots, const Load& load) : slots(slots), load(load) {
        for (int i = 0; i < Stages - 1; ++i) refill();
    }

    // The next step's slot, readable by every thread. The slot of the step before it may now be refilled.
    __device__ const unsigned char* next() {
        cp_async_wait<Stages - 2>();
        __syncthreads();
        const unsigned char* slot = slots + use * SlotBytes;
        use = use + 1 == Stages ? 0 : use + 1;
        return slot;
    }

    // Starts to fill the free slot: once after each next(), at whatever point suits the step's computation.
    __device__ void refill() {
        load(slots + fill * SlotBytes);
        cp_async_commit();
        fill = fill + 1 == Stages ? 0 : fill + 1;
    }
};
