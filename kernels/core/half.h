// IEEE half precision as bits: what float16 tensors are made of. Kernels compute in float32 and round where they store.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/parallel.h"

namespace zerograsp {

struct Half {
  std::uint16_t bits;
};

namespace half_bits {
constexpr std::int32_t kExponent = 0x7c00 << 13;     // of a half, where float32 has it
constexpr std::int32_t kRebias = (127 - 15) << 23;   // from a half's exponent to float32's
constexpr std::int32_t kSmallest = 113 << 23;        // 2^-14: smaller halves are subnormal
constexpr std::int32_t kBeyond = 143 << 23;          // 2^16: no half is so large
constexpr std::int32_t kInfinity = 255 << 23;
constexpr std::int32_t kMagic = 126 << 23;           // 0.5: float32's last place is a subnormal half's
}  // namespace half_bits

// Exact. cpu/half_lanes.h has the same expressions on vectors. Static: some units are compiled for wider instruction sets.
static inline float widen(Half h) {
  using namespace half_bits;
  const std::int32_t magnitude = (h.bits & 0x7fff) << 13, exponent = magnitude & kExponent;
  float value;
  std::int32_t bits = magnitude + kSmallest;
  std::memcpy(&value, &bits, sizeof value);
  float smallest;
  std::memcpy(&smallest, &kSmallest, sizeof smallest);
  value -= smallest;  // a subnormal half
  if (exponent != 0) {
    bits = magnitude + (exponent == kExponent ? 2 * kRebias : kRebias);
    std::memcpy(&value, &bits, sizeof value);
  }
  std::memcpy(&bits, &value, sizeof bits);
  bits |= static_cast<std::int32_t>(static_cast<std::uint32_t>(h.bits & 0x8000) << 16);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To the nearest, ties to even; beyond 65504 + 15 infinite; NaN stays NaN.
static inline Half narrow(float value) {
  using namespace half_bits;
  std::uint32_t all;
  std::memcpy(&all, &value, sizeof all);
  const std::int32_t x = static_cast<std::int32_t>(all & 0x7fffffffu);
  std::int32_t bits;
  if (x >= kBeyond) {
    bits = x > kInfinity ? 0x7e00 : 0x7c00;
  } else if (x < kSmallest) {
    float magnitude, magic;
    std::memcpy(&magnitude, &x, sizeof magnitude);
    std::memcpy(&magic, &kMagic, sizeof magic);
    magnitude += magic;  // the addition rounds
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits -= kMagic;
  } else {
    bits = (x - kRebias + 0xfff + (x >> 13 & 1)) >> 13;
  }
  return {static_cast<std::uint16_t>(bits | static_cast<std::int32_t>(all >> 16 & 0x8000u))};
}

// Whole arrays, with the instruction set that the convolutions use.
void widen(const Half* from, float* to, std::int64_t count, const Parallel& parallel);
void narrow(const float* from, Half* to, std::int64_t count, const Parallel& parallel);

}  // namespace zerograsp
