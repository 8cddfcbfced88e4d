// Index arithmetic: sizes, bounds masks, and a thread's place in the warp grid.
#pragma once

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The bounds mask: true when 0 <= index < limit.
__device__ inline bool inside(int index, int limit) {
    return static_cast<unsigned>(index) < static_cast<unsigned>(limit);
}

// Row pitch in bytes of a shared tile of 16-bit elements. An odd number of 16-byte units keeps ldmatrix and
// fragment stores free of bank conflicts; `elements` must be a multiple of 16.
__host__ __device__ constexpr int pitch_bytes(int elements) { return elements * 2 + 16; }

// A thread's place: warps form an M x N grid over pixels x channels.
template <int WarpsN>
struct Place {
    int lane, warp_m, warp_n;
    int col;  // first of the two fragment columns this lane holds

    __device__ explicit Place(int thread)
        : lane(thread % 32), warp_m(thread / 32 / WarpsN), warp_n(thread / 32 % WarpsN), col(lane % 4 * 2) {}
};
