// mbarrier: an 8-byte object in shared memory that counts arrivals and asynchronously copied bytes, phase after phase.
//
// A phase ends when all its arrivals are in and all bytes it expects have been copied; the next begins at once. The
// phases' parities alternate from 0, so a wait for parity 1 on a fresh barrier returns at once.
#pragma once
#include "ptx/types.cuh"

using Barrier = u64;

// One thread initialises; mbarrier_init_fence and __syncthreads come before any other use.
__device__ inline void mbarrier_init(Barrier* barrier, u32 arrivals) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
}
__device__ inline void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void mbarrier_arrive(Barrier* barrier) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
}

// Arrives, and makes the phase wait for `bytes` more of asynchronous copies.
__device__ inline void mbarrier_arrive_expect(Barrier* barrier, u32 bytes) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
}

// All lanes of a warp wait together until the phase of this parity has ended.
__device__ inline void mbarrier_wait(Barrier* barrier, u32 parity) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile(
        "{\n .reg .pred done;\n"
        "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        " @!done bra again;\n}" ::"r"(address),
        "r"(parity)
        : "memory");
}
