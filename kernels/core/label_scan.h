// Walking over a label image that is mostly background (-1).
#pragma once
#include <cstdint>
#include <cstring>

namespace zerograsp {

// First column from `u` on whose label is not -1; `width` if there is none. Eight labels a step.
inline std::int64_t skip_background(const std::int32_t* row, std::int64_t u, std::int64_t width) {
  if (u < width && row[u] != -1) return u;
  for (; u + 8 <= width; u += 8) {
    std::uint64_t pair[4];
    std::memcpy(pair, row + u, sizeof pair);
    if ((pair[0] & pair[1] & pair[2] & pair[3]) != ~std::uint64_t{0}) break;
  }
  while (u < width && row[u] == -1) ++u;
  return u;
}

// First column after `u` whose label differs from that of `u`.
inline std::int64_t skip_equal(const std::int32_t* row, std::int64_t u, std::int64_t width) {
  const std::int32_t label = row[u];
  while (++u < width && row[u] == label) {
  }
  return u;
}

}  // namespace zerograsp
