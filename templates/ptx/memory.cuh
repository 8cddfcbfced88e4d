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
__device__ inline void load_global_f32x8(float (&v)[8], const void* p) {
    const float4 a = __ldg(static_cast<const float4*>(p)), b = __ldg(static_cast<const float4*>(p) + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void store_global_u32(void* p, u32 v) { *static_cast<u32*>(p) = v; }
// By an intrinsic: a plain store of a struct the compiler sometimes leaves in four pieces.
__device__ inline void store_global_16(void* p, const Vec16& v) {
    __stwb(static_cast<uint4*>(p), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
}
__device__ inline void store_global_f32x8(void* p, const float (&v)[8]) {
    static_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    static_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ inline Vec16 load_shared_16(const void* p) { return *static_cast<const Vec16*>(p); }
__device__ inline u32 load_shared_u32(const void* p) { return *static_cast<const u32*>(p); }
__device__ inline FloatPair load_shared_f32x2(const void* p) {
    const float2 v = *static_cast<const float2*>(p);
    return {v.x, v.y};
}
__device__ inline void load_shared_f32x8(float (&v)[8], const void* p) {
    const float4 a = static_cast<const float4*>(p)[0], b = static_cast<const float4*>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void store_shared_u32(void* p, u32 v) { *static_cast<u32*>(p) = v; }
__device__ inline void store_shared_16(void* p, const Vec16& v) { *static_cast<Vec16*>(p) = v; }
__device__ inline void store_shared_f32x2(void* p, FloatPair v) {
    *static_cast<float2*>(p) = make_float2(v.low, v.high);
}
__device__ inline void store_shared_f32x4(void* p, const float (&v)[4]) {
    *static_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ inline void add_shared_f32x4(float (&v)[4], const void* p) {
    const float4 more = *static_cast<const float4*>(p);
    v[0] += more.x, v[1] += more.y, v[2] += more.z, v[3] += more.w;
}
