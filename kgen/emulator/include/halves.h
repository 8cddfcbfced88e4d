// 16-bit and e4m3 elements widened to float, many at a time; internal.
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

inline float widen_e4m3(uint32_t byte) {
    const uint32_t magnitude = byte & 0x7f;
    const float scaled = bit_cast<float>(magnitude << 20) * 0x1p120f;  // as in widen_f16
    const uint32_t special = magnitude == 0x7f ? 0x7fc00000 : 0;       // the one NaN
    return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | (byte & 0x80) << 24);
}

template <float (*widen)(uint32_t), class Element, int Rows, int Columns>
inline void widen_all(const Element (&in)[Rows][Columns], float (&out)[Rows][Columns]) {
    for (int row = 0; row < Rows; ++row)
        for (int i = 0; i < Columns; ++i) out[row][i] = widen(in[row][i]);
}

}  // namespace emulator
