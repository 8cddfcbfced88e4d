// The emulator's conversions: same contract as the GPU's header of this name, in bit arithmetic.
#pragma once
#include "ptx/types.cuh"

namespace emulator {

// Rounds to nearest even; beyond the largest half to infinity; NaN to the GPU's canonical NaN.
inline u32 narrow_f16(float value) {
    const u32 bits = bit_cast<u32>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
    if (magnitude < 0x38800000u)  // subnormal half: adding 0.5 leaves the rounded result in the low bits
        return sign | (bit_cast<u32>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u);
    return sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

inline u32 narrow_bf16(float value) {
    const u32 bits = bit_cast<u32>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Rounds to nearest even; beyond the largest e4m3 to that; NaN to the one NaN, without a sign.
inline u32 narrow_e4m3(float value) {
    const u32 bits = bit_cast<u32>(value), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fu;
    if (magnitude >= 0x43e00000u) return sign | 0x7eu;
    if (magnitude < 0x3c800000u)  // subnormal e4m3: adding 2^14 leaves the rounded result in the low bits
        return sign | (bit_cast<u32>(bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000u);
    return sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

inline float widen_f16(u32 half) {
    const u32 magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
    u32 bits = bit_cast<u32>(bit_cast<float>(magnitude << 13) * 0x1p112f);
    if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
    return bit_cast<float>(bits | sign);
}

}  // namespace emulator

template <class T>
inline u32 pack(float low, float high);

template <>
inline u32 pack<f16>(float low, float high) {
    return emulator::narrow_f16(low) | emulator::narrow_f16(high) << 16;
}

template <>
inline u32 pack<bf16>(float low, float high) {
    return emulator::narrow_bf16(low) | emulator::narrow_bf16(high) << 16;
}

inline u32 pack_e4m3(float v0, float v1, float v2, float v3) {
    return emulator::narrow_e4m3(v0) | emulator::narrow_e4m3(v1) << 8 | emulator::narrow_e4m3(v2) << 16 |
           emulator::narrow_e4m3(v3) << 24;
}

struct FloatPair {
    float low, high;
};

template <class T>
inline FloatPair unpack(u32 pair);

template <>
inline FloatPair unpack<f16>(u32 pair) {
    return {emulator::widen_f16(pair & 0xffffu), emulator::widen_f16(pair >> 16)};
}

template <>
inline FloatPair unpack<bf16>(u32 pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
