// 16-bit elements widened to float, many at a time; internal.
#pragma once

#include <stdint.h>

#include "builtins.h"

namespace emulator {

// Four lanes: what the least x86-64 and AArch64 processors have registers for.
using Floats = float __attribute__((vector_size(16)));

inline float widen_f16(uint32_t half) {
    const uint32_t magnitude = half & 0x7fff;
    const float scaled = bit_cast<float>(magnitude << 13) * 0x1p112f;  // moves the exponent's bias; exact
    const uint32_t special = magnitude >= 0x7c00 ? 0x7f800000 : 0;     // infinities and NaNs
    return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | (half & 0x8000) << 16);
}

inline float widen_bf16(uint32_t half) { return bit_cast<float>(half << 16); }

template <float (*widen)(uint32_t), int Rows, int Columns>
inline void widen_all(const uint16_t (&in)[Rows][Columns], float (&out)[Rows][Columns]) {
    for (int row = 0; row < Rows; ++row)
        for (int i = 0; i < Columns; ++i) out[row][i] = widen(in[row][i]);
}

}  // namespace emulator
