// stmatrix: one warp stores 8x8 matrices of 16-bit elements to shared memory, from sm_90 on.
//
// The inverse of ldmatrix: lane l passes the address of row l % 8 (16 bytes, 16-byte aligned) of matrix l / 8; register
// r of lane l holds elements 2 * (l % 4) and 2 * (l % 4) + 1 of row l / 4 of matrix r.
#pragma once
#include "ptx/types.cuh"

__device__ inline void stmatrix_x4(void* row, const u32 (&r)[4]) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}
