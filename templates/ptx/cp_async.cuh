// cp.async: 16-byte copies from global to shared memory that complete in committed groups.
#pragma once
#include "ptx/types.cuh"

// Copies 16 bytes when `valid`, else writes 16 zero bytes and does not read `global`.
__device__ inline void cp_async_16(void* shared, const void* global, bool valid) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}

// Closes this thread's current group of copies; a group may be empty.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's most recent groups are unfinished.
template <int Pending>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}
