// A position in a ring of slots whose use mbarriers count: the slot, and the parity of the current round through it.
#pragma once
#include "ptx/types.cuh"

template <int Count>
struct Slots {
    int index = 0;
    u32 parity = 0;

    __device__ void advance() {
        if (++index == Count) {
            index = 0;
            parity ^= 1;
        }
    }
};
