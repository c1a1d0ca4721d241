// Alignment of two octrees by key: a merge, with whole sibling groups as its steps where they are complete.
#include <algorithm>

#include "core/octree.h"

namespace zerograsp {

namespace {

constexpr std::int64_t kTargetsPerBlock = 32768;

// Eight strictly ascending keys from 8 k to 8 k + 7 are a complete sibling group.
inline bool sibling_group(const std::int64_t* keys, std::int64_t i, std::int64_t count) {
  return i + 8 <= count && (keys[i] & 7) == 0 && keys[i + 7] == keys[i] + 7;
}

}  // namespace

void align_keys(const Parallel& parallel, const std::int64_t* source, std::int64_t source_count,
                const std::int64_t* target, std::int64_t target_count, std::int32_t* rows) {
  const std::size_t blocks = static_cast<std::size_t>((target_count + kTargetsPerBlock - 1) / kTargetsPerBlock);
  parallel_for(parallel, blocks, [&](std::size_t b) {
    std::int64_t i = static_cast<std::int64_t>(b) * kTargetsPerBlock;
    const std::int64_t last = std::min(i + kTargetsPerBlock, target_count);
    std::int64_t j = std::lower_bound(source, source + source_count, target[i]) - source;
    while (i < last) {
      const std::int64_t key = target[i];
      while (j < source_count && source[j] < key)
        j += sibling_group(source, j, source_count) && source[j + 7] < key ? 8 : 1;
      if (sibling_group(target, i, last)) {
        if (j == source_count || source[j] > key + 7) {
          std::fill_n(rows + i, 8, -1);
          i += 8;
          continue;
        }
        if (source[j] == key && sibling_group(source, j, source_count)) {
          for (int k = 0; k < 8; ++k) rows[i + k] = static_cast<std::int32_t>(j + k);
          i += 8;
          j += 8;
          continue;
        }
      }
      rows[i++] = j < source_count && source[j] == key ? static_cast<std::int32_t>(j) : -1;
    }
  });
}

}  // namespace zerograsp
