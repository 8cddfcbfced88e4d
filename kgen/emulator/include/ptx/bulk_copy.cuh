// The emulator's bulk copies: same contract as the GPU's header of this name; they land as late as the launch asks.
#pragma once
#include "ptx/mbarrier.cuh"

inline void bulk_copy(void* shared, const void* global, u32 bytes, Barrier* barrier,
                      emulator::Site site = emulator::Site::here()) {
    emulator::bulk_copy(shared, global, bytes, barrier, site);
}
inline void bulk_copy_multicast(void* shared, const void* global, u32 bytes, Barrier* barrier, u32 ctas,
                                emulator::Site site = emulator::Site::here()) {
    emulator::bulk_copy_multicast(shared, global, bytes, barrier, ctas, site);
}
