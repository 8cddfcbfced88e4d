// Activations in float.
#pragma once
#include "ptx/math.cuh"

enum class Activation { identity, relu, silu, gelu, gelu_tanh };

// How a sigmoid is computed: exp2 costs two special-function operations and is good to float rounding or nearly so;
// tanh costs one and is good to about 2^-11, the rounding of float16.
enum class Sigmoid { exp2, tanh };

template <Sigmoid Kind>
__device__ inline float times_sigmoid(float factor, float x) {
    if constexpr (Kind == Sigmoid::tanh) {
        const float half = 0.5f * factor;
        return half + half * tanh_approx(0.5f * x);
    } else {
        return factor * reciprocal_approx(1.0f + exp2_approx(-1.4426950408889634f * x));
    }
}

template <Activation Kind, Sigmoid How>
__device__ inline float activate(float x) {
    if constexpr (Kind == Activation::relu) {
        return fmaxf(x, 0.0f);
    } else if constexpr (Kind == Activation::silu) {
        return times_sigmoid<How>(x, x);
    } else if constexpr (Kind == Activation::gelu) {
        return 0.5f * x * (1.0f + erff(0.70710678118654752f * x));
    } else if constexpr (Kind == Activation::gelu_tanh) {
        // 0.5 (1 + tanh u) = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
        return times_sigmoid<How>(x, 1.5957691216057308f * x * (1.0f + 0.044715f * x * x));
    } else {
        return x;
    }
}
