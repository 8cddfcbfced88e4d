// Rings of slots that the CTAs of a cluster fill for one another: what all of them need, one of them loads for all.
//
// A slot's `full` barrier counts all its bytes, whoever loads them; its `empty` barrier the consumers of all CTAs,
// since a slot is free only when it is so in all of them. With a cluster of one, these are the ordinary copy and
// arrival.
#pragma once
#include "ptx/bulk_copy.cuh"
#include "ptx/cluster.cuh"
#include "tile/slots.cuh"

template <int Cluster>
struct ClusterRing {
    // Of this CTA in its cluster.
    static __device__ int rank() { return blockIdx.x % Cluster; }

    // Once this CTA's barriers are initialised, by all threads: then those of all CTAs are.
    static __device__ void meet() {
        if constexpr (Cluster > 1) {
            cluster_arrive();
            cluster_wait();
        }
    }

    // The last a producer does, at its next slot: waits until every slot is free, since no CTA may end while others
    // still free slots in it.
    template <int Count>
    static __device__ void drain(Barrier* empty, Slots<Count> slot) {
        if constexpr (Cluster > 1)
            for (int i = 0; i < Count; ++i, slot.advance()) mbarrier_wait(&empty[slot.index], slot.parity ^ 1);
    }

    // Starts a copy to the same slot of all CTAs.
    static __device__ void load(unsigned char* slot, const unsigned char* global, u32 bytes, Barrier* full) {
        if constexpr (Cluster > 1)
            bulk_copy_multicast(slot, global, bytes, full, (1 << Cluster) - 1);
        else
            bulk_copy(slot, global, bytes, full);
    }

    // A warp's share in freeing a slot, everywhere.
    static __device__ void release(Barrier* empty) {
        const int lane = threadIdx.x % 32;
        if constexpr (Cluster > 1) {
            if (lane < Cluster) mbarrier_arrive_at(empty, lane);
        } else {
            if (lane == 0) mbarrier_arrive(empty);
        }
    }
};
