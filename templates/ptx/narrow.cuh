// Copies and loads of less than 16 bytes. Addresses must be aligned to the access's size.
#pragma once
#include "ptx/types.cuh"

// As cp_async_16, of 8 bytes.
__device__ inline void cp_async_8(void* shared, const void* global, bool valid) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    int bytes = valid ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}

__device__ inline u32 load_global_u32(const void* p) { return __ldg(static_cast<const u32*>(p)); }
