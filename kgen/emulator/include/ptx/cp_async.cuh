// The emulator's cp.async: same contract as the GPU's header of this name; copies land as late as the launch asks.
#pragma once
#include "ptx/types.cuh"

inline void cp_async_16(void* shared, const void* global, bool valid, emulator::Site site = emulator::Site::here()) {
    emulator::copy_async(shared, global, 16, valid, site);
}

inline void cp_async_commit() { emulator::commit_async(); }

template <int Pending>
inline void cp_async_wait() {
    emulator::wait_async(Pending);
}
