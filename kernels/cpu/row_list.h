// The rows of a tile that have a neighbour at one tap, as pointers; compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace zerograsp {
namespace {

constexpr int kMaxTile = 128;

// Rows of a tile: where each reads its input and where it accumulates.
template <class X, class Sum>
struct Rows {
  const X* x[kMaxTile];
  Sum* acc[kMaxTile];
  int count = 0;
};
using RowList = Rows<float, float>;

#ifdef __AVX2__
// For every mask of 8 lanes the permutation that moves the set lanes to the front, one byte a lane.
struct LeftPack {
  std::uint64_t order[256];
  constexpr LeftPack() : order() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      std::uint64_t packed = 0;
      int k = 0;
      for (unsigned lane = 0; lane < 8; ++lane)
        if ((mask >> lane & 1u) != 0) packed |= static_cast<std::uint64_t>(lane) << (8 * k++);
      order[mask] = packed;
    }
  }
};
constexpr LeftPack kLeftPack;
#endif

// Makes `list` the rows of the tile whose neighbour at this tap exists.
template <class X, class Sum>
inline void list_rows(const X* x, int stride, const std::int32_t* neighbours, int rows, Sum* acc, int acc_stride,
                      Rows<X, Sum>& list) {
  int count = 0;
#ifdef __AVX2__
  // Left-packs eight entries, and their row numbers, at a time.
  alignas(32) std::int32_t source[kMaxTile + 8];
  alignas(32) std::int32_t row[kMaxTile + 8];
  int r = 0;
  __m256i row_ids = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (; r + 8 <= rows; r += 8) {
    const __m256i j = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(neighbours + r));
    const unsigned missing = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(j)));
    const unsigned present = ~missing & 0xffu;
    if (present != 0) {
      const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kLeftPack.order[present])));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(source + count), _mm256_permutevar8x32_epi32(j, order));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + count), _mm256_permutevar8x32_epi32(row_ids, order));
      count += __builtin_popcount(present);
    }
    row_ids = _mm256_add_epi32(row_ids, _mm256_set1_epi32(8));
  }
  for (; r < rows; ++r) {
    source[count] = neighbours[r];
    row[count] = r;
    count += neighbours[r] >= 0;
  }
  for (int i = 0; i < count; ++i) {
    list.x[i] = x + static_cast<std::size_t>(source[i]) * stride;
    list.acc[i] = acc + row[i] * acc_stride;
  }
#else
  for (int r = 0; r < rows; ++r) {
    const std::int32_t j = neighbours[r];
    list.x[count] = x + static_cast<std::ptrdiff_t>(j) * stride;
    list.acc[count] = acc + r * acc_stride;
    count += j >= 0;
  }
#endif
  list.count = count;
}

}  // namespace
}  // namespace zerograsp
