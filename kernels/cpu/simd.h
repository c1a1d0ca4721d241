// Eight floats at a time, by GCC/Clang vector extensions: one register with AVX2, two with NEON or SSE.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/activation.h"

namespace zerograsp {
namespace {

typedef float Vec __attribute__((vector_size(32)));
typedef std::int32_t IntVec __attribute__((vector_size(32)));
constexpr int kLanes = 8;

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x}; }
inline Vec select(IntVec mask, Vec a, Vec b) { return (Vec)(((IntVec)a & mask) | ((IntVec)b & ~mask)); }
inline Vec minimum(Vec a, Vec b) { return select(a < b, a, b); }
inline Vec maximum(Vec a, Vec b) { return select(a > b, a, b); }

// Below -5.5 the factor is rounding noise, not zero: x is held there, or the noise would grow with it.
// The order of the arguments lets NaN through, here and in elu and activate.
inline Vec gelu(Vec x) {
  x = maximum(splat(-gelu_fit::kLimit), x);
  const Vec c = minimum(x, splat(gelu_fit::kLimit));
  const Vec t = c * c;
  Vec p = splat(gelu_fit::kP[5]), q = splat(gelu_fit::kQ[5]);
  for (int i = 4; i >= 0; --i) {
    p = p * t + splat(gelu_fit::kP[i]);
    q = q * t + splat(gelu_fit::kQ[i]);
  }
  return x * (splat(0.5f) + c * p / q);
}

// exp for x <= 0: 2^n * exp(r), |r| <= ln2 / 2, a Taylor polynomial of degree 6 (error below 2e-7)
inline Vec exp_negative(Vec x) {
  x = maximum(x, splat(-87.0f));
  const Vec shifted = x * splat(1.44269504f) + splat(12582912.0f);  // 1.5 * 2^23: rounds to the nearest integer
  const Vec n = shifted - splat(12582912.0f);
  const Vec r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
  Vec p = splat(1.0f / 720.0f);
  p = p * r + splat(1.0f / 120.0f);
  p = p * r + splat(1.0f / 24.0f);
  p = p * r + splat(1.0f / 6.0f);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const IntVec exponent = ((IntVec)shifted - (IntVec)splat(12582912.0f) + 127) << 23;
  return p * (Vec)exponent;
}

inline Vec elu(Vec x) { return select(x <= splat(0.0f), exp_negative(minimum(x, splat(0.0f))) - splat(1.0f), x); }

template <Activation A>
inline Vec activate(Vec x) {
  if constexpr (A == Activation::kGelu) return gelu(x);
  if constexpr (A == Activation::kElu) return elu(x);
  if constexpr (A == Activation::kRelu) return maximum(splat(0.0f), x);
  return x;
}

}  // namespace
}  // namespace zerograsp
