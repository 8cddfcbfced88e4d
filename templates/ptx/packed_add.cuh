// Sums of packed pairs of 16-bit elements (low half first), rounded to nearest even: the same as added in float and
// then rounded, since float has more than twice their digits.
#pragma once
#include "ptx/types.cuh"

template <class T>
__device__ inline u32 add_pairs(u32 a, u32 b);

template <>
__device__ inline u32 add_pairs<f16>(u32 a, u32 b) {
    u32 sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}

// a 1 + b: before compute capability 9.0 there is no plain sum.
template <>
__device__ inline u32 add_pairs<bf16>(u32 a, u32 b) {
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sum;
}
