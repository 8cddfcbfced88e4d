// Warp-wide instructions: gathered from 32 lanes, computed once by the last lane to arrive.
#pragma GCC optimize("O3")  // vectorises the conversions; clang does so anyway
#include <string.h>

#include "halves.h"
#include "runtime.h"

namespace emulator {
namespace {

struct Multiply {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
};
struct Exchange {
    uint64_t value, result;
    int source_lane;
};
struct LoadMatrices {
    uint32_t* r;
    const unsigned char* row;
};

struct StoreMatrices {
    const uint32_t* r;
    unsigned char* row;
};

// D += A B for the fragment layouts that ptx/mma.cuh documents.
template <float (*widen)(uint32_t)>
void multiply_tile(void* const (&arguments)[32]) {
    uint16_t a_bits[16][16], b_bits[16][8];
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto& of = *static_cast<const Multiply*>(arguments[lane]);
        const int row = lane / 4, column = 2 * (lane % 4);
        for (int i = 0; i < 4; ++i) memcpy(&a_bits[row + i % 2 * 8][column + i / 2 * 8], &of.a[i], 4);
        for (int i = 0; i < 2; ++i) {
            b_bits[column + 8 * i][row] = static_cast<uint16_t>(of.b[i]);
            b_bits[column + 8 * i + 1][row] = static_cast<uint16_t>(of.b[i] >> 16);
        }
        memcpy(&d[row][column], of.d, 8);
        memcpy(&d[row + 8][column], of.d + 2, 8);
    }
    widen_all<widen>(a_bits, a);
    widen_all<widen>(b_bits, b);
    for (int row = 0; row < 16; ++row) {
        Floats sum[2];
        memcpy(sum, d[row], sizeof(sum));
        for (int k = 0; k < 16; ++k) {
            Floats b_row[2];
            memcpy(b_row, b[k], sizeof(b_row));
            sum[0] += a[row][k] * b_row[0];
            sum[1] += a[row][k] * b_row[1];
        }
        memcpy(d[row], sum, sizeof(sum));
    }
    for (int lane = 0; lane < 32; ++lane) {
        const auto& of = *static_cast<const Multiply*>(arguments[lane]);
        memcpy(of.d, &d[lane / 4][2 * (lane % 4)], 8);
        memcpy(of.d + 2, &d[lane / 4 + 8][2 * (lane % 4)], 8);
    }
}

template <float (*widen)(uint32_t)>
void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    Multiply argument = {d, a, {b0, b1}};
    if (!gather(Kind::mma, &argument, site)) return;
    multiply_tile<widen>(current_warp().arguments);
    release();
}

void check_mask(const char* what, unsigned mask, Site site) {
    if (mask == ~0u) return;
    fail(
        "%s must name all 32 lanes in the emulator, but kernel %s, block %u, thread %u, at %s passes mask 0x%08x; "
        "make the whole warp take part",
        what, state.launch->symbol, blockIdx.x, threadIdx.x, text(site), mask);
}

}  // namespace

void multiply_f16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    multiply<widen_f16>(d, a, b0, b1, site);
}

void multiply_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site) {
    multiply<widen_bf16>(d, a, b0, b1, site);
}

void load_matrices(unsigned (&r)[4], const void* row, Site site) {
    LoadMatrices argument = {r, static_cast<const unsigned char*>(row)};
    if (!gather(Kind::ldmatrix, &argument, site)) return;
    void* const* arguments = current_warp().arguments;
    const unsigned char* rows[32];
    for (unsigned lane = 0; lane < 32; ++lane) {
        rows[lane] = static_cast<const LoadMatrices*>(arguments[lane])->row;
        check_row(rows[lane], lane, false, site);
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        uint32_t* out = static_cast<const LoadMatrices*>(arguments[lane])->r;
        for (unsigned i = 0; i < 4; ++i) memcpy(&out[i], rows[8 * i + lane / 4] + 4 * (lane % 4), 4);
    }
    release();
}

void store_matrices(void* row, const unsigned (&r)[4], Site site) {
    StoreMatrices argument = {r, static_cast<unsigned char*>(row)};
    if (!gather(Kind::stmatrix, &argument, site)) return;
    void* const* arguments = current_warp().arguments;
    unsigned char* rows[32];
    for (unsigned lane = 0; lane < 32; ++lane) {
        rows[lane] = static_cast<const StoreMatrices*>(arguments[lane])->row;
        check_row(rows[lane], lane, true, site);
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        const uint32_t* in = static_cast<const StoreMatrices*>(arguments[lane])->r;
        for (unsigned i = 0; i < 4; ++i) memcpy(rows[8 * i + lane / 4] + 4 * (lane % 4), &in[i], 4);
    }
    release();
}

unsigned long long exchange(unsigned mask, unsigned long long value, int source_lane, Site site) {
    check_mask("a shuffle", mask, site);
    Exchange argument = {value, 0, source_lane};
    if (gather(Kind::exchange, &argument, site)) {
        void* const* arguments = current_warp().arguments;
        for (unsigned lane = 0; lane < 32; ++lane) {
            auto& of = *static_cast<Exchange*>(arguments[lane]);
            of.result = static_cast<const Exchange*>(arguments[of.source_lane & 31])->value;
        }
        release();
    }
    return argument.result;
}

void warp_barrier(unsigned mask, Site site) {
    check_mask("__syncwarp", mask, site);
    if (!gather(Kind::warp_barrier, nullptr, site)) return;
    synchronise_warp();
    release();
}

void fence_proxy_async() { state.cta->shadow.proxied[threadIdx.x] = tick(); }

void trap(Site site) {
    fail("a kernel must not trap, but kernel %s, block %u, thread %u, traps at %s; meet the condition it checks",
         state.launch->symbol, blockIdx.x, threadIdx.x, text(site));
}

}  // namespace emulator
