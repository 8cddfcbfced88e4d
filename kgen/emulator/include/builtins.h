// Force-included before every emulated source: CUDA's built-ins for the host, and the emulator's interface.
//
// Nothing here includes a system header, so a kernel sees the same empty world that NVRTC gives it.
#pragma once

#define __host__
#define __device__
#define __global__ __attribute__((visibility("default")))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

namespace emulator {

// Where in the source an instruction stands; as a default argument it names the line of the call.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

unsigned char* shared_memory();
// Checks bounds, alignment and (in shared memory) races of one access; `what` is the instruction's name.
void check_global(const void* p, unsigned bytes, bool write, const char* what, Site site);
void check_shared(const void* p, unsigned bytes, bool write, const char* what, Site site);

void copy_async(void* shared, const void* global, unsigned bytes, bool valid, Site site);
void commit_async();
void wait_async(unsigned pending);

void mbarrier_init(void* barrier, unsigned arrivals, Site site);
void mbarrier_init_fence();
void mbarrier_arrive(const void* barrier, const char* what, unsigned bytes, Site site);
void bulk_copy(void* shared, const void* global, unsigned bytes, void* barrier, Site site);
void bulk_copy_multicast(void* shared, const void* global, unsigned bytes, void* barrier, unsigned ctas, Site site);
void fence_proxy_async();

unsigned cluster_rank();
void bulk_copy_to_cta(const void* p, unsigned bytes, unsigned rank, const void* barrier, Site site);
void mbarrier_arrive_at(const void* barrier, unsigned rank, Site site);

unsigned long long make_descriptor(const void* shared, unsigned along_k, unsigned along_rows, Site site);
unsigned long long make_swizzled_descriptor(const void* shared, Site site);
unsigned long long advance_descriptor(unsigned long long descriptor, unsigned bytes, Site site);

enum class Element : unsigned char { f16, bf16, e4m3 };

// Warp-wide: every lane calls, the last one to arrive computes for all.
void barrier(Site site);
void named_barrier(unsigned number, unsigned threads, Site site);
void warp_barrier(unsigned mask, Site site);
unsigned long long exchange(unsigned mask, unsigned long long value, int source_lane, Site site);
void load_matrices(unsigned (&r)[4], const void* row, Site site);
void store_matrices(void* row, const unsigned (&r)[4], Site site);
void multiply_f16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site);
void multiply_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Site site);
void mbarrier_wait(void* barrier, unsigned parity, Site site);
void cluster_arrive(Site site);
void cluster_wait(Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(unsigned pending, Site site);
// A is in registers if `a_registers` is not null, else where `a` says.
void multiply_wgmma(Element element, float (*d)[4], unsigned tiles, bool accumulate, const unsigned* a_registers,
                    unsigned long long a, unsigned long long b, Site site);
void share_registers(unsigned registers, Site site);
[[noreturn]] void trap(Site site);

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
    To to;
    __builtin_memcpy(&to, &from, sizeof(to));
    return to;
}

template <class T>
inline T shuffle(unsigned mask, T value, int source_lane, Site site) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = exchange(mask, bits, source_lane, site);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emulator

// --- coordinates ---
struct uint3 {
    unsigned x, y, z;
};
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// --- synchronisation and warp shuffles ---
inline void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::barrier(site); }
inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
    emulator::warp_barrier(mask, site);
}
inline void __trap(emulator::Site site = emulator::Site::here()) { emulator::trap(site); }

template <class T>
inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, emulator::Site site = emulator::Site::here()) {
    int self = static_cast<int>(threadIdx.x % 32);
    return emulator::shuffle(mask, v, (self & -width) + (lane & (width - 1)), site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, emulator::Site site = emulator::Site::here()) {
    int self = static_cast<int>(threadIdx.x % 32), lane = self ^ bits;
    return emulator::shuffle(mask, v, lane < (self & -width) + width ? lane : self, site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,
                          emulator::Site site = emulator::Site::here()) {
    int self = static_cast<int>(threadIdx.x % 32), lane = self + static_cast<int>(by);
    return emulator::shuffle(mask, v, lane < (self & -width) + width ? lane : self, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, emulator::Site site = emulator::Site::here()) {
    int self = static_cast<int>(threadIdx.x % 32), lane = self - static_cast<int>(by);
    return emulator::shuffle(mask, v, lane >= (self & -width) ? lane : self, site);
}

// --- memory ---
template <class T>
inline T __ldg(const T* p, emulator::Site site = emulator::Site::here()) {
    emulator::check_global(p, sizeof(T), false, "__ldg", site);
    return *p;
}

// --- numbers ---
inline float __uint_as_float(unsigned v) { return emulator::bit_cast<float>(v); }
inline float __int_as_float(int v) { return emulator::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return emulator::bit_cast<unsigned>(v); }
inline int __float_as_int(float v) { return emulator::bit_cast<int>(v); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }

extern "C" {
float fabsf(float) noexcept;
float fminf(float, float) noexcept;
float fmaxf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
float sqrtf(float) noexcept;
float expf(float) noexcept;
float exp2f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float tanhf(float) noexcept;
float erff(float) noexcept;
}
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
