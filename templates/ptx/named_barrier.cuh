// bar.sync with a number: a barrier of some of a CTA's warps.
#pragma once
#include "ptx/types.cuh"

// Waits until `threads` threads, whole warps, have called it with this number, 1 to 15; then its next round begins.
__device__ inline void named_barrier_sync(u32 number, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
