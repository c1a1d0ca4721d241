// One depth of the output octree from predicted occupancy.
#include <algorithm>
#include <cmath>

#include "core/octree.h"
#include "core/octree_neighbours.h"

namespace zerograsp {

namespace {
constexpr std::int64_t kNodesPerBlock = 16384;  // less is not worth waking a thread
}

bool OctreeGrowth::decide(const Parallel& parallel, const float* logits, std::int64_t row_count, std::int64_t stride,
                          const std::int32_t* rows, const std::uint8_t* forced, std::int64_t n, bool keep_one) {
  nodes_ = n;
  const std::size_t blocks = static_cast<std::size_t>((n + kNodesPerBlock - 1) / kNodesPerBlock);
  reserve(split_, static_cast<std::size_t>(n));
  reserve(block_split_, blocks);
  reserve(block_nan_, blocks);
  reserve(block_bad_, blocks);
  parallel_for(parallel, blocks, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kNodesPerBlock;
    const std::int64_t last = std::min(first + kNodesPerBlock, n);
    std::int64_t split = 0, nan = 0, bad = 0;
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t row = rows ? rows[i] : i;
      bool on = false;
      if (row < 0 || row >= row_count) {
        ++bad;
      } else {
        if (logits) {
          const float* pair = logits + row * stride;
          nan += std::isnan(pair[0]) || std::isnan(pair[1]);
          on = splits(pair);
        }
        if (forced) on = forced[i] != 0;
      }
      split_[static_cast<std::size_t>(i)] = on;
      split += on;
    }
    block_split_[b] = split;
    block_nan_[b] = nan;
    block_bad_[b] = bad;
  });
  split_count_ = nan_count_ = 0;
  std::int64_t bad = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::int64_t here = block_split_[b];
    block_split_[b] = split_count_;  // now the rank of the block's first split node
    split_count_ += here;
    nan_count_ += block_nan_[b];
    bad += block_bad_[b];
  }
  if (keep_one && split_count_ == 0) {  // the published rule: a depth never stays without a split node
    split_[0] = 1;
    split_count_ = 1;
  }
  return bad == 0;
}

void OctreeGrowth::write(const Parallel& parallel, const std::int32_t* rows, const std::int64_t* keys,
                         std::int32_t* children, std::int32_t* split_rows, std::int64_t* next_keys) {
  const std::size_t blocks = static_cast<std::size_t>((nodes_ + kNodesPerBlock - 1) / kNodesPerBlock);
  parallel_for(parallel, blocks, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kNodesPerBlock;
    const std::int64_t last = std::min(first + kNodesPerBlock, nodes_);
    std::int64_t rank = block_split_[b];
    for (std::int64_t i = first; i < last; ++i) {
      if (!split_[static_cast<std::size_t>(i)]) {
        children[i] = -1;
        continue;
      }
      children[i] = static_cast<std::int32_t>(rank);
      split_rows[rank] = rows ? rows[i] : static_cast<std::int32_t>(i);
      if (next_keys)
        for (int c = 0; c < 8; ++c) next_keys[8 * rank + c] = child_key(keys[i], c);
      ++rank;
    }
  });
}

}  // namespace zerograsp
