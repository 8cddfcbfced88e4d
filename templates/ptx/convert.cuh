// Conversions between float and packed pairs of 16-bit elements (low half first), rounding to nearest even.
#pragma once
#include "ptx/types.cuh"

template <class T>
__device__ inline u32 pack(float low, float high);

template <>
__device__ inline u32 pack<f16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <>
__device__ inline u32 pack<bf16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

struct FloatPair {
    float low, high;
};

template <class T>
__device__ inline FloatPair unpack(u32 pair);

template <>
__device__ inline FloatPair unpack<f16>(u32 pair) {
    FloatPair out;
    asm("{.reg .f16 lo, hi;\n mov.b32 {lo, hi}, %2;\n cvt.f32.f16 %0, lo;\n cvt.f32.f16 %1, hi;}"
        : "=f"(out.low), "=f"(out.high)
        : "r"(pair));
    return out;
}

template <>
__device__ inline FloatPair unpack<bf16>(u32 pair) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
