// The emulator's loads and stores of single small elements.
#pragma once
#include "ptx/memory.cuh"

inline u32 load_global_u8(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_global<unsigned char>(p, "load_global_u8", site);
}
inline u32 load_global_u16(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_global<u16>(p, "load_global_u16", site);
}
inline void store_global_u16(void* p, u32 v, emulator::Site site = emulator::Site::here()) {
    emulator::write_global(p, static_cast<u16>(v), "store_global_u16", site);
}
