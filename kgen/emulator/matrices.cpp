// wgmma's operands in shared memory, and its arithmetic.
#pragma GCC optimize("O3")
#include <string.h>

#include "halves.h"
#include "wgmma.h"

namespace emulator {
namespace {

// A descriptor: three fields of 14 bits, in units of 16 bytes, and whether rows are swizzled, as on the GPU; and a mark
// that it is one.
constexpr unsigned kAlongK = 16, kAlongRows = 32;
constexpr unsigned long long kMark = 0x5aull << 48, kSwizzled = 1ull << 62;
constexpr uint64_t kFieldEnd = 1u << 18;

// 8 rows x 16 bytes: one after the other, or at the swizzled places of rows of 128 bytes.
struct CoreMatrix {
    uint64_t offset;
    bool swizzled;
    uint64_t row(unsigned row) const {
        if (!swizzled) return offset + row * 16;
        const uint64_t plain = offset + row * 128;
        return plain ^ (plain >> 7 & 7) << 4;
    }
};

uint64_t field(unsigned long long descriptor, unsigned shift) { return (descriptor >> shift & 0x3fff) << 4; }

unsigned long long pack_field(const char* name, uint64_t bytes, unsigned shift, const char* what, Site site) {
    if (bytes % 16 || bytes >= kFieldEnd)
        fail(
            "a wgmma descriptor's %s must be a multiple of 16 below %llu, but kernel %s, block %u, thread %u, at %s "
            "passes %llu bytes to %s; change the tile's layout",
            name, static_cast<unsigned long long>(kFieldEnd), state.launch->symbol, blockIdx.x, threadIdx.x, text(site),
            static_cast<unsigned long long>(bytes), what);
    return static_cast<unsigned long long>(bytes >> 4) << shift;
}

// Calls use(core matrix) for `row_blocks` of them from the first on, each with two along k.
template <class Use>
void for_core_matrices(unsigned long long descriptor, unsigned first, unsigned row_blocks, Use&& use) {
    for (unsigned row = first; row < first + row_blocks; ++row)
        for (unsigned k = 0; k < 2; ++k)
            use(CoreMatrix{field(descriptor, 0) + row * field(descriptor, kAlongRows) + k * field(descriptor, kAlongK),
                           (descriptor & kSwizzled) != 0});
}

// This warp's rows of A are two of its eight row blocks.
unsigned first_block() { return threadIdx.x / 32 % 4 * 2; }

void check_descriptor(unsigned long long descriptor, unsigned first, unsigned row_blocks, const char* name, Site site) {
    if ((descriptor & ~kSwizzled) >> 48 != kMark >> 48)
        fail(
            "wgmma must get descriptors that wgmma_descriptor made, but kernel %s, block %u, thread %u, at %s passes "
            "0x%llx for %s; make one",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), descriptor, name);
    if (descriptor & kSwizzled && (field(descriptor, 0) % 1024 > 96 || field(descriptor, 0) % 32))
        fail(
            "a swizzled matrix must be read from a multiple of 1024 bytes plus 0, 32, 64 or 96, but kernel %s, block "
            "%u, thread %u, wgmma at %s reads %s from byte %llu; correct the bytes of wgmma_advance",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), name,
            static_cast<unsigned long long>(field(descriptor, 0)));
    for_core_matrices(descriptor, first, row_blocks, [&](const CoreMatrix& core) {
        const uint64_t offset = core.row(0);
        if (core.row(7) + 16 <= state.launch->shared_bytes && offset + 16 <= state.launch->shared_bytes) return;
        fail(
            "wgmma must stay inside the CTA's shared memory, but kernel %s, block %u, thread %u, at %s reads a part "
            "of %s from byte %llu of %llu; check the descriptor's address and strides",
            state.launch->symbol, blockIdx.x, threadIdx.x, text(site), name, static_cast<unsigned long long>(offset),
            static_cast<unsigned long long>(state.launch->shared_bytes));
    });
}

// Operands of 16-bit elements, or of bytes: `Bits` holds one, and a core matrix has so many of k.
template <class Bits>
constexpr int kDepth = 16 / sizeof(Bits);

// 8 rows of elements, widened.
template <class Bits, float (*widen)(uint32_t)>
void load_core_matrix(const CoreMatrix& from, float (&out)[8][kDepth<Bits>]) {
    Bits bits[8][kDepth<Bits>];
    for (unsigned row = 0; row < 8; ++row) memcpy(bits[row], state.cta->shared + from.row(row), 16);
    widen_all<widen>(bits, out);
}

template <float (*widen)(uint32_t)>
void load_a_registers(const Multiplication& of, float (&a)[16][16]) {
    uint16_t bits[16][16];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            memcpy(&bits[lane / 4 + i % 2 * 8][2 * (lane % 4) + i / 2 * 8], &of.a_registers[lane][i], 4);
    widen_all<widen>(bits, a);
}

template <class Bits, float (*widen)(uint32_t)>
void load_a(const Multiplication& of, float (&a)[16][2 * kDepth<Bits>]) {
    constexpr int DEPTH = kDepth<Bits>;
    if constexpr (sizeof(Bits) == 2)
        if (of.registers) return load_a_registers<widen>(of, a);
    float core[8][DEPTH];
    int block = 0;
    for_core_matrices(of.a, first_block(), 2, [&](const CoreMatrix& from) {
        load_core_matrix<Bits, widen>(from, core);
        for (int row = 0; row < 8; ++row)
            memcpy(&a[block / 2 * 8 + row][block % 2 * DEPTH], core[row], sizeof(core[0]));
        ++block;
    });
}

template <class Bits, float (*widen)(uint32_t)>
void multiply_matrices(const Multiplication& of, float (&d)[16][256]) {
    constexpr int DEPTH = kDepth<Bits>;
    static float a[16][2 * DEPTH], b[2 * DEPTH][256];
    load_a<Bits, widen>(of, a);
    float core[8][DEPTH];
    int block = 0;
    for_core_matrices(of.b, 0, of.tiles, [&](const CoreMatrix& from) {
        load_core_matrix<Bits, widen>(from, core);
        for (int column = 0; column < 8; ++column)
            for (int k = 0; k < DEPTH; ++k) b[block % 2 * DEPTH + k][block / 2 * 8 + column] = core[column][k];
        ++block;
    });
    for (int row = 0; row < 16; ++row) {
        for (unsigned column = 0; column < 8 * of.tiles; column += 16) {
            Floats sum[4];
            memcpy(sum, &d[row][column], sizeof(sum));
            for (int k = 0; k < 2 * DEPTH; ++k) {
                Floats b_row[4];
                memcpy(b_row, &b[k][column], sizeof(b_row));
                for (int i = 0; i < 4; ++i) sum[i] += a[row][k] * b_row[i];
            }
            memcpy(&d[row][column], sum, sizeof(sum));
        }
    }
}

}  // namespace

unsigned long long make_descriptor(const void* shared, unsigned along_k, unsigned along_rows, Site site) {
    const char* const what = "wgmma_descriptor";
    const uint64_t offset = check_shared_span(shared, 16, 16, false, what, threadIdx.x, site);
    return kMark | pack_field("address", offset, 0, what, site) | pack_field("along_k", along_k, kAlongK, what, site) |
           pack_field("along_rows", along_rows, kAlongRows, what, site);
}

unsigned long long make_swizzled_descriptor(const void* shared, Site site) {
    const char* const what = "wgmma_swizzled_descriptor";
    const uint64_t offset = check_shared_span(shared, 16, 1024, false, what, threadIdx.x, site);
    return kMark | kSwizzled | pack_field("address", offset, 0, what, site) | 16ull >> 4 << kAlongK |
           1024ull >> 4 << kAlongRows;
}

unsigned long long advance_descriptor(unsigned long long descriptor, unsigned bytes, Site site) {
    const char* const what = "wgmma_advance";
    pack_field("advance", bytes, 0, what, site);
    return (descriptor & ~0x3fffull) | pack_field("address", field(descriptor, 0) + bytes, 0, what, site);
}

void hold_matrices(const Multiplication& of, bool begins) {
    if (begins) check_descriptor(of.b, 0, of.tiles, "B", of.site);
    if (begins && !of.registers) check_descriptor(of.a, first_block(), 2, "A", of.site);
    const auto note = [&](const CoreMatrix& core) {
        if (!core.swizzled) return note_multiply(core.offset, 128, begins, of.site);
        for (unsigned row = 0; row < 8; ++row) note_multiply(core.row(row), 16, begins, of.site);
    };
    for_core_matrices(of.b, 0, of.tiles, note);
    if (!of.registers) for_core_matrices(of.a, first_block(), 2, note);
}

void multiply(const Multiplication& of, Accumulators& accumulators) {
    if (!of.accumulate) memset(accumulators.values, 0, sizeof(accumulators.values));
    switch (of.element) {
        case Element::f16:
            return multiply_matrices<uint16_t, widen_f16>(of, accumulators.values);
        case Element::bf16:
            return multiply_matrices<uint16_t, widen_bf16>(of, accumulators.values);
        case Element::e4m3:
            return multiply_matrices<uint8_t, widen_e4m3>(of, accumulators.values);
    }
}

}  // namespace emulator
