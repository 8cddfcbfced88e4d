// One warp's part of a wgmma; internal.
#pragma once

#include "runtime.h"

namespace emulator {

// One wgmma under way: its operands as they were when it was issued.
struct Multiplication {
    uint32_t group;
    Site site;
    Element element;
    bool accumulate, registers;  // whether A is in registers
    unsigned tiles;
    unsigned long long a, b;      // descriptors
    const unsigned* a_at[32];     // each lane's A registers,
    unsigned a_registers[32][4];  // and what they held
};

// The accumulators of wgmma under way. What the kernel sees of them is poison until they land.
struct Accumulators {
    float (*at[32])[4];  // each lane's
    unsigned tiles;
    uint32_t group;  // of the last wgmma that adds to them
    bool landed;
    Site site;
    float values[16][256];
};

// Notes that the multiplication's matrices in shared memory are being read, or no longer.
void hold_matrices(const Multiplication& multiplication, bool begins);
void multiply(const Multiplication& multiplication, Accumulators& accumulators);

}  // namespace emulator
