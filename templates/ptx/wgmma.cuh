// wgmma.m64nNk16: a warpgroup (4 warps) multiplies a 64x16 A by a 16xN B into 64xN float accumulators, asynchronously.
// With e4m3 elements it is m64nNk32: the same bytes, twice as many k, and A in shared memory only.
//
// Warp w of the warpgroup holds rows 16 w to 16 w + 15 of A and D, as in mma.cuh: a[4] is its A fragment, and d[t] its
// accumulator of columns 8 t to 8 t + 7. A descriptor names a matrix in shared memory, stored as core matrices of
// 8 rows x 16 bytes, each 128 contiguous bytes; a row of B is one column n with 16 bytes of consecutive k.
//
// Order: wgmma_fence after the warpgroup's last plain access to registers it hands over; any number of wgmma;
// wgmma_commit closes a group; wgmma_wait<P> returns when at most P groups are unfinished. Until then nobody may
// touch the group's accumulators, write its A registers or write its tiles in shared memory.
#pragma once
#include "ptx/types.cuh"

// Descriptor of a matrix: `along_k` bytes between its two core matrices along k, `along_rows` between those along
// its rows; both multiples of 16, as is the address.
__device__ inline u64 wgmma_descriptor(const void* shared, u32 along_k, u32 along_rows) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    return (address >> 4 & 0x3fffu) | static_cast<u64>(along_k >> 4) << 16 | static_cast<u64>(along_rows >> 4) << 32;
}

// Descriptor of a matrix whose rows are 128 bytes, 64 consecutive k: 16-byte unit u of row r lies at unit u ^ r % 8 of
// its row. The address is a multiple of 1024; 16 of k are 32 bytes.
__device__ inline u64 wgmma_swizzled_descriptor(const void* shared) {
    u32 address = static_cast<u32>(__cvta_generic_to_shared(shared));
    return (address >> 4 & 0x3fffu) | static_cast<u64>(1024 >> 4) << 32 | static_cast<u64>(1) << 62;
}

// The descriptor of the same matrix `bytes` further on.
__device__ inline u64 wgmma_advance(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int Pending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps the compiler from moving accesses of accumulators or A registers across this point.
template <int Tiles>
__device__ inline void wgmma_pin(float (&d)[Tiles][4]) {
#pragma unroll
    for (int i = 0; i < 4 * Tiles; ++i) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
template <int Steps>
__device__ inline void wgmma_pin(u32 (&a)[Steps][4]) {
#pragma unroll
    for (int i = 0; i < 4 * Steps; ++i) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

template <class T>
constexpr bool WGMMA_F16 = false;
template <>
constexpr bool WGMMA_F16<f16> = true;

// The accumulators of 16 columns, as the instruction's text and as its operands.
#define WGMMA_TEXT1 "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_TEXT2 \
    WGMMA_TEXT1     \
    ", "            \
    "%8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_TEXT3 \
    WGMMA_TEXT2     \
    ", "            \
    "%16, %17, %18, %19, %20, %21, %22, %23"
#define WGMMA_TEXT4 \
    WGMMA_TEXT3     \
    ", "            \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_TEXT5 \
    WGMMA_TEXT4     \
    ", "            \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define WGMMA_TEXT6 \
    WGMMA_TEXT5     \
    ", "            \
    "%40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_TEXT7 \
    WGMMA_TEXT6     \
    ", "            \
    "%48, %49, %50, %51, %52, %53, %54, %55"
#define WGMMA_TEXT8 \
    WGMMA_TEXT7     \
    ", "            \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_TEXT9 \
    WGMMA_TEXT8     \
    ", "            \
    "%64, %65, %66, %67, %68, %69, %70, %71"
#define WGMMA_TEXT10 \
    WGMMA_TEXT9      \
    ", "             \
    "%72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_TEXT11 \
    WGMMA_TEXT10     \
    ", "             \
    "%80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_TEXT12 \
    WGMMA_TEXT11     \
    ", "             \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_TEXT13 \
    WGMMA_TEXT12     \
    ", "             \
    "%96, %97, %98, %99, %100, %101, %102, %103"
#define WGMMA_TEXT14 \
    WGMMA_TEXT13     \
    ", "             \
    "%104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_TEXT15 \
    WGMMA_TEXT14     \
    ", "             \
    "%112, %113, %114, %115, %116, %117, %118, %119"
#define WGMMA_TEXT16 \
    WGMMA_TEXT15     \
    ", "             \
    "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_TILE(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define WGMMA_TILES1 WGMMA_TILE(0), WGMMA_TILE(1)
#define WGMMA_TILES2 WGMMA_TILES1, WGMMA_TILE(2), WGMMA_TILE(3)
#define WGMMA_TILES3 WGMMA_TILES2, WGMMA_TILE(4), WGMMA_TILE(5)
#define WGMMA_TILES4 WGMMA_TILES3, WGMMA_TILE(6), WGMMA_TILE(7)
#define WGMMA_TILES5 WGMMA_TILES4, WGMMA_TILE(8), WGMMA_TILE(9)
#define WGMMA_TILES6 WGMMA_TILES5, WGMMA_TILE(10), WGMMA_TILE(11)
#define WGMMA_TILES7 WGMMA_TILES6, WGMMA_TILE(12), WGMMA_TILE(13)
#define WGMMA_TILES8 WGMMA_TILES7, WGMMA_TILE(14), WGMMA_TILE(15)
#define WGMMA_TILES9 WGMMA_TILES8, WGMMA_TILE(16), WGMMA_TILE(17)
#define WGMMA_TILES10 WGMMA_TILES9, WGMMA_TILE(18), WGMMA_TILE(19)
#define WGMMA_TILES11 WGMMA_TILES10, WGMMA_TILE(20), WGMMA_TILE(21)
#define WGMMA_TILES12 WGMMA_TILES11, WGMMA_TILE(22), WGMMA_TILE(23)
#define WGMMA_TILES13 WGMMA_TILES12, WGMMA_TILE(24), WGMMA_TILE(25)
#define WGMMA_TILES14 WGMMA_TILES13, WGMMA_TILE(26), WGMMA_TILE(27)
#define WGMMA_TILES15 WGMMA_TILES14, WGMMA_TILE(28), WGMMA_TILE(29)
#define WGMMA_TILES16 WGMMA_TILES15, WGMMA_TILE(30), WGMMA_TILE(31)

#define WGMMA_LINE(type, depth, columns, blocks, a, b, flag, transposed)                                        \
    "{\n .reg .pred add;\n setp.ne.b32 add, " flag ", 0;\n wgmma.mma_async.sync.aligned.m64n" columns "k" depth \
    ".f32." type "." type " {" WGMMA_TEXT##blocks "}, " a ", " b ", add, 1, 1" transposed ";\n}"
#define WGMMA_FROM_REGISTERS(type, columns, blocks, a_text, b_text, flag)                                \
    asm volatile(WGMMA_LINE(type, "16", columns, blocks, "{" a_text "}", b_text, flag, ", 0")            \
                 : WGMMA_TILES##blocks                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(Accumulate)) \
                 : "memory")
#define WGMMA_FROM_SHARED(type, depth, columns, blocks, a_text, b_text, flag, transposed)   \
    asm volatile(WGMMA_LINE(type, depth, columns, blocks, a_text, b_text, flag, transposed) \
                 : WGMMA_TILES##blocks                                                      \
                 : "l"(a), "l"(b), "r"(static_cast<int>(Accumulate))                        \
                 : "memory")

// d = A B + (Accumulate ? d : 0) for one number of columns, in 16-column blocks; A in registers, or in shared memory
// where `a` is a descriptor. r0 to r5 are the numbers of the operands that follow the accumulators.
#define WGMMA_WIDTH(columns, blocks, r0, r1, r2, r3, r4, r5)                                   \
    template <class T, bool Accumulate>                                                        \
    __device__ inline void wgmma(float (&d)[2 * blocks][4], const u32(&a)[4], u64 b) {         \
        static_assert(sizeof(T) == 2, "e4m3 operands are in shared memory");                   \
        if constexpr (WGMMA_F16<T>)                                                            \
            WGMMA_FROM_REGISTERS("f16", columns, blocks, r0 ", " r1 ", " r2 ", " r3, r4, r5);  \
        else                                                                                   \
            WGMMA_FROM_REGISTERS("bf16", columns, blocks, r0 ", " r1 ", " r2 ", " r3, r4, r5); \
    }                                                                                          \
    template <class T, bool Accumulate>                                                        \
    __device__ inline void wgmma(float (&d)[2 * blocks][4], u64 a, u64 b) {                    \
        if constexpr (sizeof(T) == 1)                                                          \
            WGMMA_FROM_SHARED("e4m3", "32", columns, blocks, r0, r1, r2, "");                  \
        else if constexpr (WGMMA_F16<T>)                                                       \
            WGMMA_FROM_SHARED("f16", "16", columns, blocks, r0, r1, r2, ", 0, 0");             \
        else                                                                                   \
            WGMMA_FROM_SHARED("bf16", "16", columns, blocks, r0, r1, r2, ", 0, 0");            \
    }

WGMMA_WIDTH("16", 1, "%8", "%9", "%10", "%11", "%12", "%13")
WGMMA_WIDTH("32", 2, "%16", "%17", "%18", "%19", "%20", "%21")
WGMMA_WIDTH("48", 3, "%24", "%25", "%26", "%27", "%28", "%29")
WGMMA_WIDTH("64", 4, "%32", "%33", "%34", "%35", "%36", "%37")
WGMMA_WIDTH("80", 5, "%40", "%41", "%42", "%43", "%44", "%45")
WGMMA_WIDTH("96", 6, "%48", "%49", "%50", "%51", "%52", "%53")
WGMMA_WIDTH("112", 7, "%56", "%57", "%58", "%59", "%60", "%61")
WGMMA_WIDTH("128", 8, "%64", "%65", "%66", "%67", "%68", "%69")
WGMMA_WIDTH("144", 9, "%72", "%73", "%74", "%75", "%76", "%77")
WGMMA_WIDTH("160", 10, "%80", "%81", "%82", "%83", "%84", "%85")
WGMMA_WIDTH("176", 11, "%88", "%89", "%90", "%91", "%92", "%93")
WGMMA_WIDTH("192", 12, "%96", "%97", "%98", "%99", "%100", "%101")
WGMMA_WIDTH("208", 13, "%104", "%105", "%106", "%107", "%108", "%109")
WGMMA_WIDTH("224", 14, "%112", "%113", "%114", "%115", "%116", "%117")
WGMMA_WIDTH("240", 15, "%120", "%121", "%122", "%123", "%124", "%125")
WGMMA_WIDTH("256", 16, "%128", "%129", "%130", "%131", "%132", "%133")

#undef WGMMA_WIDTH
#undef WGMMA_FROM_SHARED
#undef WGMMA_FROM_REGISTERS
