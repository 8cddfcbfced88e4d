// The emulator's stmatrix: same contract as the GPU's header of this name.
#pragma once
#include "ptx/types.cuh"

inline void stmatrix_x4(void* row, const u32 (&r)[4], emulator::Site site = emulator::Site::here()) {
    emulator::store_matrices(row, r, site);
}
