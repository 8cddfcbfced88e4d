// The emulator's named barriers: same contract as the GPU's header of this name; every use is checked.
#pragma once
#include "ptx/types.cuh"

inline void named_barrier_sync(u32 number, u32 threads, emulator::Site site = emulator::Site::here()) {
    emulator::named_barrier(number, threads, site);
}
