// The emulator's wgmma: same contract as the GPU's header of this name, each warp for itself, products summed in float.
// A descriptor holds an offset in shared memory where the GPU's holds an address.
#pragma once
#include "ptx/types.cuh"

inline u64 wgmma_descriptor(const void* shared, u32 along_k, u32 along_rows,
                            emulator::Site site = emulator::Site::here()) {
    return emulator::make_descriptor(shared, along_k, along_rows, site);
}
inline u64 wgmma_swizzled_descriptor(const void* shared, emulator::Site site = emulator::Site::here()) {
    return emulator::make_swizzled_descriptor(shared, site);
}
inline u64 wgmma_advance(u64 descriptor, u32 bytes, emulator::Site site = emulator::Site::here()) {
    return emulator::advance_descriptor(descriptor, bytes, site);
}

inline void wgmma_fence(emulator::Site site = emulator::Site::here()) { emulator::wgmma_fence(site); }
inline void wgmma_commit(emulator::Site site = emulator::Site::here()) { emulator::wgmma_commit(site); }

template <int Pending>
inline void wgmma_wait(emulator::Site site = emulator::Site::here()) {
    emulator::wgmma_wait(Pending, site);
}

// What is pinned on the GPU is in memory here.
template <int Tiles>
inline void wgmma_pin(float (&)[Tiles][4]) {}
template <int Steps>
inline void wgmma_pin(u32 (&)[Steps][4]) {}

template <class T>
constexpr emulator::Element WGMMA_ELEMENT = emulator::Element::bf16;
template <>
constexpr emulator::Element WGMMA_ELEMENT<f16> = emulator::Element::f16;
template <>
constexpr emulator::Element WGMMA_ELEMENT<e4m3> = emulator::Element::e4m3;

template <class T, bool Accumulate, int Tiles>
inline void wgmma(float (&d)[Tiles][4], const u32 (&a)[4], u64 b, emulator::Site site = emulator::Site::here()) {
    static_assert(Tiles % 2 == 0 && Tiles >= 2 && Tiles <= 32, "wgmma has 16 to 256 columns in steps of 16");
    static_assert(WGMMA_ELEMENT<T> != emulator::Element::e4m3, "e4m3 operands are in shared memory");
    emulator::multiply_wgmma(WGMMA_ELEMENT<T>, d, Tiles, Accumulate, a, 0, b, site);
}
template <class T, bool Accumulate, int Tiles>
inline void wgmma(float (&d)[Tiles][4], u64 a, u64 b, emulator::Site site = emulator::Site::here()) {
    static_assert(Tiles % 2 == 0 && Tiles >= 2 && Tiles <= 32, "wgmma has 16 to 256 columns in steps of 16");
    emulator::multiply_wgmma(WGMMA_ELEMENT<T>, d, Tiles, Accumulate, nullptr, a, b, site);
}
