// Arithmetic on packed pairs of float16 (low half first), rounded to nearest even. From compute capability 9.0 on.
#pragma once
#include "ptx/types.cuh"

// What is beyond 65504 becomes 65504.
__device__ inline u32 pack_finite_f16x2(float low, float high) {
    u32 pair;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ inline u32 multiply_f16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// Clamped to what lies between 0 and 1.
__device__ inline u32 multiply_saturated_f16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.sat.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// a b + c
__device__ inline u32 multiply_add_f16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// With an absolute error below 2^-10.9.
__device__ inline u32 tanh_approx_f16x2(u32 a) {
    u32 d;
    asm("tanh.approx.f16x2 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}
