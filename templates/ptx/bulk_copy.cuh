// cp.async.bulk: one thread starts a copy of contiguous bytes from global to shared memory; a barrier counts them.
#pragma once
#include "ptx/mbarrier.cuh"

// Both addresses and `bytes` must be multiples of 16; `bytes` must be among those that `barrier` was told to expect.
__device__ inline void bulk_copy(void* shared, const void* global, u32 bytes, Barrier* barrier) {
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    u32 counter = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(global), "r"(bytes), "r"(counter)
                 : "memory");
}

// The same to the same place in every CTA of the cluster whose rank's bit is set in `ctas`; in each, the barrier at the
// same place as `barrier` counts the bytes. The issuer must know of what those CTAs have done there: see
// mbarrier_arrive_at.
__device__ inline void bulk_copy_multicast(void* shared, const void* global, u32 bytes, Barrier* barrier, u32 ctas) {
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    u32 counter = static_cast<u32>(__cvta_generic_to_shared(barrier));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(to),
        "l"(global), "r"(bytes), "r"(counter), "h"(static_cast<unsigned short>(ctas))
        : "memory");
}
