// Element types of features: conversions, and the choice of a type at run time.
#pragma once
#include <cmath>

#include "cuda/error.h"

namespace zerograsp {
namespace cuda {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ void convert(float v, float* to) { *to = v; }
__device__ __forceinline__ void convert(float v, __half* to) { *to = __float2half(v); }

// The int8 of a value: v / scale, rounded half to even and held within +-127; NaN becomes 0.
__device__ __forceinline__ std::int8_t quantized(float v, float scale) {
  const float q = rintf(v / scale);
  const float held = q > 127.0f ? 127.0f : q >= -127.0f ? q : q < -127.0f ? -127.0f : 0.0f;
  return static_cast<std::int8_t>(static_cast<std::int32_t>(held));
}

// Calls f with a value of the element type; `name` is the argument's.
template <class F>
int with_float_type(const char* name, std::int32_t type, F&& f) {
  if (type == kZgFloat32) return f(float{});
  if (type == kZgFloat16) return f(__half{});
  return invalid("%s: expected %d (float32) or %d (float16), got %d", name, kZgFloat32, kZgFloat16, type);
}

}  // namespace cuda
}  // namespace zerograsp
