// Conversions between float and packed pairs of 16-bit elements (low half first), rounding to nearest even; and from
// float to four packed e4m3.
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

// Low byte first; what is beyond 448 becomes 448. From compute capability 8.9 on.
__device__ inline u32 pack_e4m3(float v0, float v1, float v2, float v3) {
    u32 four;
    asm("{.reg .b16 lo, hi;\n cvt.rn.satfinite.e4m3x2.f32 lo, %2, %1;\n"
        " cvt.rn.satfinite.e4m3x2.f32 hi, %4, %3;\n mov.b32 %0, {lo, hi};}"
        : "=r"(four)
        : "f"(v0), "f"(v1), "f"(v2), "f"(v3));
    return four;
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
