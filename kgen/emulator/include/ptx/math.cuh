// The emulator's special functions: same contract as the GPU's header of this name, at the host's full precision.
#pragma once

inline float exp2_approx(float x) { return exp2f(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }
inline float tanh_approx(float x) { return tanhf(x); }
