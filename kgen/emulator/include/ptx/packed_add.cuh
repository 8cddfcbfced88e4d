// The emulator's sums of packed pairs: same contract as the GPU's header of this name.
#pragma once
#include "ptx/convert.cuh"

template <class T>
inline u32 add_pairs(u32 a, u32 b) {
    const FloatPair x = unpack<T>(a), y = unpack<T>(b);
    return pack<T>(x.low + y.low, x.high + y.high);
}
