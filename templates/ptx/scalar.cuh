// Loads and stores of single small elements.
#pragma once
#include "ptx/types.cuh"

__device__ inline u32 load_global_u8(const void* p) { return __ldg(static_cast<const unsigned char*>(p)); }
__device__ inline u32 load_global_u16(const void* p) { return __ldg(static_cast<const u16*>(p)); }

// Stores of the lower half.
__device__ inline void store_global_u16(void* p, u32 v) { *static_cast<u16*>(p) = static_cast<u16>(v); }
