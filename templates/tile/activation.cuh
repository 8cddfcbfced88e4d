// Activations in float.
#pragma once
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
