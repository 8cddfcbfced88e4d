// Clusters: CTAs that run together, copy into each other's shared memory and arrive at each other's barriers.
#pragma once
#include "ptx/mbarrier.cuh"

__device__ inline u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// The cluster's barrier. The arrival is relaxed, since a release takes long: a phase tells that mbarriers are
// initialised and that copies are complete, but shows no one what another has written.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Copies `bytes` at p to the same place in CTA `rank`, where `barrier` counts them.
__device__ inline void bulk_copy_to_cta(const void* p, u32 bytes, u32 rank, const Barrier* barrier) {
    u32 from = static_cast<u32>(__cvta_generic_to_shared(p)), to;
    u32 counter = static_cast<u32>(__cvta_generic_to_shared(barrier)), remote_counter;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(from), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote_counter) : "r"(counter), "r"(rank));
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "r"(from), "r"(bytes), "r"(remote_counter)
        : "memory");
}

// Arrives at the barrier at the same place in CTA `rank`, which may be the own one. It tells those who wait there what
// this thread has read, but shows them nothing it has written: to release that to a cluster takes long.
__device__ inline void mbarrier_arrive_at(const Barrier* barrier, u32 rank) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(barrier)), remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}
