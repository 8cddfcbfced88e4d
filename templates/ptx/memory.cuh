// Plain loads and stores. Kernels touch global and shared memory only through these and the copies beside them,
// so that the emulator can check every access. Addresses must be aligned to the access's size.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/types.cuh"

// The CTA's dynamic shared memory, 1024-byte aligned.
__device__ inline unsigned char* dynamic_shared_memory() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return bytes;
}

__device__ inline FloatPair load_global_f32x2(const void* p) {
    const float2 v = __ldg(static_cast<const float2*>(p));
    return {v.x, v.y};
}
__device__ inline Vec16 load_global_16(const void* p) {
    const uint4 v = __ldg(static_cast<const uint4*>(p));
    return {{v.x, v.y, v.z, v.w}};
}
__device__ inline void store_global_u32(void* p, u32 v) { *static_cast<u32*>(p) = v; }
__device__ inline void store_global_16(void* p, const Vec16& v) { *static_cast<Vec16*>(p) = v; }
__device__ inline Vec16 load_shared_16(const void* p) { return *static_cast<const Vec16*>(p); }
__device__ inline u32 load_shared_u32(const void* p) { return *static_cast<const u32*>(p); }
__device__ inline FloatPair load_shared_f32x2(const void* p) {
    const float2 v = *static_cast<const float2*>(p);
    return {v.x, v.y};
}
__device__ inline void store_shared_u32(void* p, u32 v) { *static_cast<u32*>(p) = v; }
__device__ inline void store_shared_f32x4(void* p, const float (&v)[4]) {
    *static_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ inline void add_shared_f32x4(float (&v)[4], const void* p) {
    const float4 more = *static_cast<const float4*>(p);
    v[0] += more.x, v[1] += more.y, v[2] += more.z, v[3] += more.w;
}
