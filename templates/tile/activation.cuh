// Activations in float.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/math.cuh"

enum class Activation { identity, relu, silu, gelu, gelu_tanh };

// How SiLU and both GELUs are computed. exp2: to float rounding or nearly so, with two special-function operations
// (erff for GELU). tanh: with one, good to about 2^-11, the rounding of float16.
enum class Sigmoid { exp2, tanh };

// The u with which act(x) = x / 2 (1 + tanh u), of half = x / 2.
template <Activation Kind>
__device__ inline float tanh_argument(float half) {
    if constexpr (Kind == Activation::silu) {
        return half;
    } else if constexpr (Kind == Activation::gelu_tanh) {
        return half * fmaf(0.28541926512906100f, half * half, 1.5957691216057307f);
    } else {
        // tanh u = erf(x / sqrt 2) to 5e-5 of 1 / x; the polynomial was fitted to that, and the square is kept where
        // tanh is 1 anyway.
        static_assert(Kind == Activation::gelu, "the other activations have no sigmoid");
        const float square = fminf(half * half, 10.0f);
        return half * fmaf(square, fmaf(square, -1.12509675e-2f, 2.96047962e-1f), 1.59501517f);
    }
}

template <Activation Kind>
__device__ inline float activate_by_tanh(float half) {
    return fmaf(half, tanh_approx(tanh_argument<Kind>(half)), half);
}

template <Activation Kind, Sigmoid How>
__device__ inline float activate(float x) {
    if constexpr (Kind == Activation::identity) {
        return x;
    } else if constexpr (Kind == Activation::relu) {
        return fmaxf(x, 0.0f);
    } else if constexpr (How == Sigmoid::tanh) {
        return activate_by_tanh<Kind>(0.5f * x);
    } else if constexpr (Kind == Activation::gelu) {
        return 0.5f * x * (1.0f + erff(0.70710678118654752f * x));
    } else {
        return x * reciprocal_approx(1.0f + exp2_approx(-2.8853900817779268f * tanh_argument<Kind>(0.5f * x)));
    }
}

// act(x + b), for kernels that add the bias last: it costs no addition where half of the sum is what is needed.
template <Activation Kind, Sigmoid How>
__device__ inline float activate_sum(float x, float b) {
    if constexpr (Kind != Activation::identity && Kind != Activation::relu && How == Sigmoid::tanh) {
        return activate_by_tanh<Kind>(fmaf(0.5f, x, 0.5f * b));
    } else {
        return activate<Kind, How>(x + b);
    }
}

// Whether activate_halves is how pairs stored as T are activated.
template <class T, Activation Kind, Sigmoid How>
constexpr bool ON_HALVES = false;
template <>
constexpr bool ON_HALVES<f16, Activation::gelu, Sigmoid::tanh> = true;
template <>
constexpr bool ON_HALVES<f16, Activation::gelu_tanh, Sigmoid::tanh> = true;

// act(x + b) of a pair, packed: as activate_by_tanh, but with the multiply-adds on both at once, in float16. That adds
// to an error of the same size; together they are below 2^-11 |x|. u is that of tanh_argument, as a polynomial in x / 4
// with coefficients that float16 has: 3.1914, 2.3496 and -0.31958, or 3.1914 and 2.2832. Beyond |x| = 4, where tanh u
// is 1 to 7e-5, it goes on in proportion to x.
template <Activation Kind>
__device__ inline u32 activate_halves(float low, float high, FloatPair b) {
    constexpr auto both = [](u32 bits) { return bits * 0x10001u; };
    const u32 quarter = pack_finite_f16x2(fmaf(0.25f, low, 0.25f * b.low), fmaf(0.25f, high, 0.25f * b.high));
    const u32 square = multiply_saturated_f16x2(quarter, quarter);
    u32 cubic = both(0x4091);
    if constexpr (Kind == Activation::gelu) cubic = multiply_add_f16x2(square, both(0xb51d), both(0x40b3));
    const u32 u = multiply_f16x2(quarter, multiply_add_f16x2(square, cubic, both(0x4262)));
    return multiply_f16x2(multiply_add_f16x2(quarter, tanh_approx_f16x2(u), quarter), both(0x4000));
}
