// Tiles of rows: how many rows one takes, and what is done with its accumulators; compiled once per instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "core/convolution.h"
#include "cpu/row_list.h"
#include "cpu/simd.h"

namespace zerograsp {
namespace {

constexpr int kTileFloats = 12288;  // accumulators of a tile; a wide layer takes fewer rows
static_assert(4 * kMaxOutputs <= kTileFloats, "the smallest tile must fit");

inline int tile_rows(int floats_per_row) {
  return std::max(4, std::min(kMaxTile, kTileFloats / floats_per_row / 4 * 4));
}

template <Activation A>
inline void activate_buffer(float* p, int count) {
  if constexpr (A == Activation::kNone) return;
  for (int i = 0; i < count; i += kLanes) store(p + i, activate<A>(load(p + i)));
}

inline void activate_buffer(float* p, int count, Activation act) {
  switch (act) {
    case Activation::kGelu: activate_buffer<Activation::kGelu>(p, count); break;
    case Activation::kElu: activate_buffer<Activation::kElu>(p, count); break;
    case Activation::kRelu: activate_buffer<Activation::kRelu>(p, count); break;
    case Activation::kNone: break;
  }
}

// The rows of a tile without the columns that pad them.
template <class Weight>
inline void copy_out(float* y, const float* acc, int rows, const Weight& w) {
  if (w.cout == w.cout_padded) {
    std::memcpy(y, acc, sizeof(float) * rows * w.cout);
    return;
  }
  for (int r = 0; r < rows; ++r) std::memcpy(y + static_cast<std::size_t>(r) * w.cout, acc + r * w.cout_padded, sizeof(float) * w.cout);
}

template <class F>
inline void for_tiles(std::int64_t n, int tile, const Parallel& parallel, F&& body) {
  const std::size_t tiles = static_cast<std::size_t>((n + tile - 1) / tile);
  parallel_for(parallel, tiles, [&](std::size_t t) {
    const std::int64_t first = static_cast<std::int64_t>(t) * tile;
    body(first, static_cast<int>(std::min<std::int64_t>(tile, n - first)));
  });
}

}  // namespace
}  // namespace zerograsp
