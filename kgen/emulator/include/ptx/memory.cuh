// The emulator's loads and stores: same contract as the GPU's header of this name, every access checked.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/types.cuh"

namespace emulator {

template <class T>
inline T read_global(const void* p, const char* what, Site site) {
    check_global(p, sizeof(T), false, what, site);
    T value;
    __builtin_memcpy(&value, p, sizeof(T));
    return value;
}

template <class T>
inline T read_shared(const void* p, const char* what, Site site) {
    check_shared(p, sizeof(T), false, what, site);
    T value;
    __builtin_memcpy(&value, p, sizeof(T));
    return value;
}

template <class T>
inline void write_global(void* p, const T& value, const char* what, Site site) {
    check_global(p, sizeof(T), true, what, site);
    __builtin_memcpy(p, &value, sizeof(T));
}

template <class T>
inline void write_shared(void* p, const T& value, const char* what, Site site) {
    check_shared(p, sizeof(T), true, what, site);
    __builtin_memcpy(p, &value, sizeof(T));
}

}  // namespace emulator

inline unsigned char* dynamic_shared_memory() { return emulator::shared_memory(); }

inline Vec16 load_global_16(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_global<Vec16>(p, "load_global_16", site);
}
inline FloatPair load_global_f32x2(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_global<FloatPair>(p, "load_global_f32x2", site);
}
inline void load_global_f32x8(float (&v)[8], const void* p, emulator::Site site = emulator::Site::here()) {
    for (int i = 0; i < 2; ++i) {
        const Vec16 half = emulator::read_global<Vec16>(static_cast<const Vec16*>(p) + i, "load_global_f32x8", site);
        __builtin_memcpy(v + 4 * i, &half, sizeof(half));
    }
}
inline void store_global_u32(void* p, u32 v, emulator::Site site = emulator::Site::here()) {
    emulator::write_global(p, v, "store_global_u32", site);
}
inline void store_global_16(void* p, const Vec16& v, emulator::Site site = emulator::Site::here()) {
    emulator::write_global(p, v, "store_global_16", site);
}
inline void store_global_f32x8(void* p, const float (&v)[8], emulator::Site site = emulator::Site::here()) {
    for (int i = 0; i < 2; ++i) {
        Vec16 half;
        __builtin_memcpy(&half, v + 4 * i, sizeof(half));
        emulator::write_global(static_cast<Vec16*>(p) + i, half, "store_global_f32x8", site);
    }
}
inline u32 load_shared_u32(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_shared<u32>(p, "load_shared_u32", site);
}
inline FloatPair load_shared_f32x2(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_shared<FloatPair>(p, "load_shared_f32x2", site);
}
inline Vec16 load_shared_16(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_shared<Vec16>(p, "load_shared_16", site);
}
inline void load_shared_f32x8(float (&v)[8], const void* p, emulator::Site site = emulator::Site::here()) {
    for (int i = 0; i < 2; ++i) {
        const Vec16 half = emulator::read_shared<Vec16>(static_cast<const Vec16*>(p) + i, "load_shared_f32x8", site);
        __builtin_memcpy(v + 4 * i, &half, sizeof(half));
    }
}
inline void store_shared_u32(void* p, u32 v, emulator::Site site = emulator::Site::here()) {
    emulator::write_shared(p, v, "store_shared_u32", site);
}
inline void store_shared_16(void* p, const Vec16& v, emulator::Site site = emulator::Site::here()) {
    emulator::write_shared(p, v, "store_shared_16", site);
}
inline void store_shared_f32x2(void* p, FloatPair v, emulator::Site site = emulator::Site::here()) {
    emulator::write_shared(p, v, "store_shared_f32x2", site);
}
inline void store_shared_f32x4(void* p, const float (&v)[4], emulator::Site site = emulator::Site::here()) {
    emulator::write_shared(p, v, "store_shared_f32x4", site);
}
inline void add_shared_f32x4(float (&v)[4], const void* p, emulator::Site site = emulator::Site::here()) {
    const Vec16 more = emulator::read_shared<Vec16>(p, "add_shared_f32x4", site);
    for (int i = 0; i < 4; ++i) v[i] += __uint_as_float(more.word[i]);
}
