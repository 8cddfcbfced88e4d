// The emulator's mma.sync.m16n8k16: same contract as the GPU's header of this name, products summed in float.
#pragma once
#include "ptx/types.cuh"

template <class T>
inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1,
                         emulator::Site site = emulator::Site::here());

template <>
inline void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, emulator::Site site) {
    emulator::multiply_f16(d, a, b0, b1, site);
}

template <>
inline void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, emulator::Site site) {
    emulator::multiply_bf16(d, a, b0, b1, site);
}
