// The emulator's arithmetic on pairs of float16: same contract as the GPU's header of this name.
#pragma once
#include "ptx/convert.cuh"

namespace emulator {

// Rounded once: a float that is not exact is made odd, so that no tie of halves is mistaken.
inline u32 narrow_f16(double value) {
    const float nearest = static_cast<float>(value);
    if (nearest == value || !(nearest - nearest == 0)) return narrow_f16(nearest);
    const bool beyond = (nearest > value) == (value > 0);
    return narrow_f16(bit_cast<float>((bit_cast<u32>(nearest) - beyond) | 1u));
}

template <class Operation>
inline u32 each_f16(Operation operation, u32 a, u32 b, u32 c) {
    const FloatPair x = unpack<f16>(a), y = unpack<f16>(b), z = unpack<f16>(c);
    return narrow_f16(operation(x.low, y.low, z.low)) | narrow_f16(operation(x.high, y.high, z.high)) << 16;
}

}  // namespace emulator

inline u32 pack_finite_f16x2(float low, float high) {
    const auto finite = [](float v) { return v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v; };
    return pack<f16>(finite(low), finite(high));
}

inline u32 multiply_f16x2(u32 a, u32 b) {
    return emulator::each_f16([](double x, double y, double) { return x * y; }, a, b, 0);
}

inline u32 multiply_saturated_f16x2(u32 a, u32 b) {
    const auto saturated = [](double x, double y, double) {
        const double product = x * y;
        return product > 0 ? product < 1 ? product : 1.0 : 0.0;  // of NaN, 0
    };
    return emulator::each_f16(saturated, a, b, 0);
}

inline u32 multiply_add_f16x2(u32 a, u32 b, u32 c) {
    return emulator::each_f16([](double x, double y, double z) { return x * y + z; }, a, b, c);
}

inline u32 tanh_approx_f16x2(u32 a) {
    return emulator::each_f16([](double x, double, double) -> double { return tanhf(static_cast<float>(x)); }, a, 0, 0);
}
