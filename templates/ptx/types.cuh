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

// 16 bytes: the unit of every vector access and asynchronous copy.
struct alignas(16) Vec16 {
    u32 word[4];
};
