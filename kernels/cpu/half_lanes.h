// Half precision, several lanes at a time: F16C and NEON instructions where the translation unit has them, else the
// expressions of core/half.h on vectors.
#pragma once
#include "core/half.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace zerograsp {
namespace {

// Floats and Ints: vectors of as many float and std::int32_t.
template <class Floats, class Ints>
struct HalfLanes {
  static constexpr int Lanes = sizeof(Floats) / sizeof(float);

  static Floats load(const Half* from) {
    Floats value;
#if defined(__F16C__)
    static_assert(Lanes == 8);
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    std::memcpy(&value, &wide, sizeof value);
#elif defined(__aarch64__)
    float* to = reinterpret_cast<float*>(&value);
    for (int i = 0; i < Lanes; i += 4) {
      uint16x4_t bits;
      std::memcpy(&bits, from + i, sizeof bits);
      const float32x4_t wide = vcvt_f32_f16(vreinterpret_f16_u16(bits));
      std::memcpy(to + i, &wide, sizeof wide);
    }
#else
    using namespace half_bits;
    std::int32_t unpacked[Lanes];
    for (int i = 0; i < Lanes; ++i) unpacked[i] = from[i].bits;
    Ints h;
    std::memcpy(&h, unpacked, sizeof h);
    const Ints magnitude = (h & 0x7fff) << 13, exponent = magnitude & kExponent;
    const Ints zero = {};
    const Floats subnormal = (Floats)(magnitude + kSmallest) - (Floats)(zero + kSmallest);
    const Ints rebias = kRebias + (kRebias & (Ints)(exponent == kExponent));
    const Ints tiny = exponent == 0;
    value = (Floats)((((Ints)subnormal & tiny) | ((magnitude + rebias) & ~tiny)) | ((h & 0x8000) << 16));
#endif
    return value;
  }

  static void store(Half* to, Floats value) {
#if defined(__F16C__)
    __m256 wide;
    std::memcpy(&wide, &value, sizeof wide);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__aarch64__)
    const float* from = reinterpret_cast<const float*>(&value);
    for (int i = 0; i < Lanes; i += 4) {
      const uint16x4_t bits = vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from + i)));
      std::memcpy(to + i, &bits, sizeof bits);
    }
#else
    using namespace half_bits;
    const Ints zero = {};
    const Ints all = (Ints)value, x = all & 0x7fffffff;
    const Ints subnormal = (Ints)((Floats)x + (Floats)(zero + kMagic)) - kMagic;
    const Ints normal = (x - kRebias + 0xfff + (x >> 13 & 1)) >> 13;
    const Ints beyond = 0x7c00 + (0x200 & (Ints)(x > kInfinity));
    const Ints tiny = x < kSmallest, huge = x >= kBeyond;
    const Ints bits = (subnormal & tiny) | (beyond & huge) | (normal & ~(tiny | huge)) | (all >> 16 & 0x8000);
    std::int32_t unpacked[Lanes];
    std::memcpy(unpacked, &bits, sizeof unpacked);
    for (int i = 0; i < Lanes; ++i) to[i].bits = static_cast<std::uint16_t>(unpacked[i]);
#endif
  }
};

}  // namespace
}  // namespace zerograsp
