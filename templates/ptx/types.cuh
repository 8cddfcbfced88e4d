// Storage types and integer aliases shared by every header. No CUDA or standard header is needed.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// 16-bit storage types; arithmetic happens in float, conversions live in convert.cuh.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

// An 8-bit type that matmuls take: sign, 4 bits of exponent, 3 of mantissa; at most 448, no infinity, one NaN.
struct e4m3 {
    unsigned char bits;
};

// 16 bytes: the unit of every vector access and asynchronous copy.
struct alignas(16) Vec16 {
    u32 word[4];
};
