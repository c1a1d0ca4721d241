// Activations as a fused epilogue. Exact GELU is x * Phi(x); Phi(x) - 1/2 is x * P(x^2) / Q(x^2), a rational fit on
// |x| <= 5.5 (error of GELU in float32 below 1e-6, or 1e-7 |x| where that is more), so that no table and no erf call is needed.
#pragma once
#include <cmath>

#include "core/host_device.h"

namespace zerograsp {

enum class Activation { kNone = 0, kGelu = 1, kElu = 2, kRelu = 3 };

namespace gelu_fit {
constexpr float kLimit = 5.5f;
constexpr float kP[6] = {3.9894199e-01f, 3.5141367e-02f, 4.7615529e-03f, 1.8284707e-04f, 6.5305348e-06f, 2.2215980e-08f};
constexpr float kQ[6] = {1.0f, 2.5474992e-01f, 2.9398130e-02f, 1.9623751e-03f, 7.8605954e-05f, 1.1953836e-06f};
}  // namespace gelu_fit

// One value at a time, for the GPU; cpu/simd.h has the same for vectors. NaN passes all of them: every comparison is written
// so that NaN stays itself.
ZG_HD float activate(float x, Activation activation) {
  switch (activation) {
    case Activation::kGelu: {
      // Below -kLimit the factor is rounding noise, not zero: x is held there, or the noise would grow with it.
      x = x < -gelu_fit::kLimit ? -gelu_fit::kLimit : x;
      const float c = x > gelu_fit::kLimit ? gelu_fit::kLimit : x, t = c * c;
      using gelu_fit::kP, gelu_fit::kQ;  // with constant indices only: device code has no such arrays
      const float p = ((((kP[5] * t + kP[4]) * t + kP[3]) * t + kP[2]) * t + kP[1]) * t + kP[0];
      const float q = ((((kQ[5] * t + kQ[4]) * t + kQ[3]) * t + kQ[2]) * t + kQ[1]) * t + kQ[0];
      return x * (0.5f + c * p / q);
    }
    case Activation::kElu: return x <= 0.0f ? expm1f(x) : x;
    case Activation::kRelu: return x < 0.0f ? 0.0f : x;
    default: return x;
  }
}

}  // namespace zerograsp
