// mma.sync.m16n8k16: one warp multiplies a 16x16 A tile by a 16x8 B tile into a 16x8 float tile.
//
// Lane l holds, with row = l / 4 and col = 2 * (l % 4):
//   a[0] = A[row][col..col+1]       a[1] = A[row + 8][col..col+1]
//   a[2] = A[row][col + 8..col + 9] a[3] = A[row + 8][col + 8..col + 9]
//   b0 = B[col..col+1][row]         b1 = B[col + 8..col + 9][row]
//   d[0..1] = D[row][col..col+1]    d[2..3] = D[row + 8][col..col+1]
#pragma once
#include "ptx/types.cuh"

template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <>
__device__ inline void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
