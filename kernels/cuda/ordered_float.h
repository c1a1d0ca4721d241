// Minima of floats over many threads, by atomics on integers.
#pragma once
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {

// What a minimum is before anything has lowered it: memset with kNoMinimumByte. As a float it is 3.4e38.
constexpr int kNoMinimumByte = 0x7f;
constexpr std::int32_t kNoMinimum = 0x7f7f7f7f;

// Integers in the order of the floats, and back.
__device__ __forceinline__ std::int32_t ordered(float f) {
  const std::int32_t i = __float_as_int(f);
  return i < 0 ? i ^ 0x7fffffff : i;
}
__device__ __forceinline__ float from_ordered(std::int32_t i) { return __int_as_float(i < 0 ? i ^ 0x7fffffff : i); }

// Lowers `minimum` to the least value of the warp's threads that have one; the whole warp calls it.
__device__ __forceinline__ void lower_minimum(std::int32_t* minimum, float value, bool has_one) {
  std::int32_t least = has_one ? ordered(value) : kNoMinimum;
  ZG_UNROLL
  for (int step = 16; step > 0; step /= 2) {
    const std::int32_t other = __shfl_xor_sync(0xffffffffu, least, step);
    least = other < least ? other : least;
  }
  if (threadIdx.x % 32 == 0 && least != kNoMinimum) atomicMin(minimum, least);
}

}  // namespace cuda
}  // namespace zerograsp
