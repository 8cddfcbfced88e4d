// The emulator's ldmatrix: same contract as the GPU's header of this name.
#pragma once
#include "ptx/types.cuh"

inline void ldmatrix_x4(u32 (&r)[4], const void* row, emulator::Site site = emulator::Site::here()) {
    emulator::load_matrices(r, row, site);
}
