// Activations in float.
#pragma once
#include "ptx/math.cuh"

enum class Activation { identity, relu, silu, gelu, gelu_tanh };

// How SiLU and both GELUs are computed. exp2: to float rounding or nearly so, with two special-function operations
// (erff for GELU). tanh: with one, good to about 2^-11, the rounding of float16.
enum class Sigmoid { exp2, tanh };

// x sigmoid(2 u), as x / 2 (1 + tanh u) when that is how.
template <Sigmoid How>
__device__ inline float gate(float x, float u) {
    if constexpr (How == Sigmoid::tanh) {
        const float half = 0.5f * x;
        return fmaf(half, tanh_approx(u), half);
    } else {
        return x * reciprocal_approx(1.0f + exp2_approx(-2.8853900817779268f * u));
    }
}

// tanh(x p(x^2)) = erf(x / sqrt 2) to 5e-5 of 1 / x; the polynomial was fitted to that, and its square is kept where
// tanh is 1 anyway.
__device__ inline float erf_as_tanh(float x) {
    const float square = fminf(x * x, 40.0f);
    return x * fmaf(square, fmaf(square, -3.51592733e-4f, 3.70059953e-2f), 7.97507586e-1f);
}

template <Activation Kind, Sigmoid How>
__device__ inline float activate(float x) {
    if constexpr (Kind == Activation::relu) {
        return fmaxf(x, 0.0f);
    } else if constexpr (Kind == Activation::silu) {
        return gate<How>(x, 0.5f * x);
    } else if constexpr (Kind == Activation::gelu && How == Sigmoid::tanh) {
        return gate<How>(x, erf_as_tanh(x));
    } else if constexpr (Kind == Activation::gelu) {
        return 0.5f * x * (1.0f + erff(0.70710678118654752f * x));
    } else if constexpr (Kind == Activation::gelu_tanh) {
        return gate<How>(x, x * fmaf(0.035677408136300125f, x * x, 0.79788456080286536f));
    } else {
        return x;
    }
}

// act(x + b), for kernels that add the bias last: SiLU by tanh then costs one multiply-add more than ReLU.
template <Activation Kind, Sigmoid How>
__device__ inline float activate_sum(float x, float b) {
    if constexpr (Kind == Activation::silu && How == Sigmoid::tanh) {
        const float half = fmaf(0.5f, x, 0.5f * b);
        return fmaf(half, tanh_approx(half), half);
    } else {
        return activate<Kind, How>(x + b);
    }
}
