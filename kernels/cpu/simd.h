// As many floats at a time as a register holds, by GCC/Clang vector extensions: eight with AVX2, four with NEON and SSE. (A
// vector of two registers costs more than it saves: GCC keeps accumulators of that type in memory.)
#pragma once
#include <cstdint>
#include <cstring>

#include "core/activation.h"

namespace zerograsp {
namespace {

// kAccumulators: registers of a block of sums; with weights and inputs beside them, GCC spills none of 16, or NEON's 32.
#if defined(__AVX2__)
constexpr int kLanes = 8, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kAccumulators = 20;
#else
constexpr int kLanes = 4, kAccumulators = 12;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kLanes)));

// Rows of a block that is `width` floats wide.
constexpr int block_rows(int width) {
  const int rows = kAccumulators / (width / kLanes);
  return rows < 8 ? rows : 8;
}

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec splat(float x) { return x - Vec{}; }  // x - 0 is x, whatever its sign
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
