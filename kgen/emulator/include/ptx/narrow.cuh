// The emulator's copies and loads of less than 16 bytes.
#pragma once
#include "ptx/memory.cuh"

inline void cp_async_8(void* shared, const void* global, bool valid, emulator::Site site = emulator::Site::here()) {
    emulator::copy_async(shared, global, 8, valid, site);
}
inline u32 load_global_u32(const void* p, emulator::Site site = emulator::Site::here()) {
    return emulator::read_global<u32>(p, "load_global_u32", site);
}
