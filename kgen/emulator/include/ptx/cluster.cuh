// The emulator's clusters: same contract as the GPU's header of this name; every use is checked.
#pragma once
#include "ptx/mbarrier.cuh"

inline u32 cluster_rank() { return emulator::cluster_rank(); }
inline void cluster_arrive(emulator::Site site = emulator::Site::here()) { emulator::cluster_arrive(site); }
inline void cluster_wait(emulator::Site site = emulator::Site::here()) { emulator::cluster_wait(site); }

inline void bulk_copy_to_cta(const void* p, u32 bytes, u32 rank, const Barrier* barrier,
                             emulator::Site site = emulator::Site::here()) {
    emulator::bulk_copy_to_cta(p, bytes, rank, barrier, site);
}
inline void mbarrier_arrive_at(const Barrier* barrier, u32 rank, emulator::Site site = emulator::Site::here()) {
    emulator::mbarrier_arrive_at(barrier, rank, site);
}
