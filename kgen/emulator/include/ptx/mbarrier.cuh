// The emulator's mbarriers: same contract as the GPU's header of this name; every use is checked.
#pragma once
#include "ptx/types.cuh"

using Barrier = u64;

inline void mbarrier_init(Barrier* barrier, u32 arrivals, emulator::Site site = emulator::Site::here()) {
    emulator::mbarrier_init(barrier, arrivals, site);
}
inline void mbarrier_init_fence() { emulator::mbarrier_init_fence(); }

inline void mbarrier_arrive(Barrier* barrier, emulator::Site site = emulator::Site::here()) {
    emulator::mbarrier_arrive(barrier, "mbarrier_arrive", 0, site);
}
inline void mbarrier_arrive_expect(Barrier* barrier, u32 bytes, emulator::Site site = emulator::Site::here()) {
    emulator::mbarrier_arrive(barrier, "mbarrier_arrive_expect", bytes, site);
}
inline void mbarrier_wait(Barrier* barrier, u32 parity, emulator::Site site = emulator::Site::here()) {
    emulator::mbarrier_wait(barrier, parity, site);
}
