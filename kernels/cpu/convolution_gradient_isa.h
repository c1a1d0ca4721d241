// The weight gradient of a convolution; included by training_isa.cpp, once per instruction set.
//
// A tile of rows of dy lies in the first-level cache, padded to whole vectors. For every tap the rows that have a neighbour
// are packed into a list, as in the convolution itself; I input channels times V vectors of output channels accumulate
// in registers over the whole list.
#pragma once
#include <algorithm>
#include <cstring>

#include "core/training.h"
#include "cpu/row_list.h"
#include "cpu/simd.h"

namespace zerograsp {
namespace {

constexpr int kGradientTile = 4096;  // floats of dy in a tile
constexpr std::int64_t kGradientChunk = 2048;  // rows that share accumulators, at least
constexpr int kMaxChunks = 8;
static_assert(kMaxOutputs <= kGradientTile, "a row of dy must fit a tile");

// dw[i][column ..) += sum over the list of x[i] * dy[column ..), for I inputs and V vectors of outputs
template <int I, int V>
inline void outer(const RowList& rows, int input, int column, float* dw, int stride) {
  Vec a[I][V];
  for (int i = 0; i < I; ++i)
    for (int v = 0; v < V; ++v) a[i][v] = load(dw + i * stride + v * kLanes);
  for (int r = 0; r < rows.count; ++r) {
    const float* dy = rows.acc[r] + column;
    const float* x = rows.x[r] + input;
    Vec d[V];
    for (int v = 0; v < V; ++v) d[v] = load(dy + v * kLanes);
    for (int i = 0; i < I; ++i) {
      const Vec xv = splat(x[i]);
      for (int v = 0; v < V; ++v) a[i][v] += xv * d[v];
    }
  }
  for (int i = 0; i < I; ++i)
    for (int v = 0; v < V; ++v) store(dw + i * stride + v * kLanes, a[i][v]);
}

template <int I, int V>
inline void outer_inputs(const RowList& rows, int cin, int column, float* dw, int stride) {
  int i = 0;
  for (; i + I <= cin; i += I) outer<I, V>(rows, i, column, dw + i * stride, stride);
  float* rest = dw + i * stride;
  switch (cin - i) {
    case 1: outer<1, V>(rows, i, column, rest, stride); break;
    case 2: if constexpr (I > 2) outer<2, V>(rows, i, column, rest, stride); break;
    case 3: if constexpr (I > 3) outer<3, V>(rows, i, column, rest, stride); break;
    case 4: if constexpr (I > 4) outer<4, V>(rows, i, column, rest, stride); break;
    case 5: if constexpr (I > 5) outer<5, V>(rows, i, column, rest, stride); break;
    case 6: if constexpr (I > 6) outer<6, V>(rows, i, column, rest, stride); break;
    case 7: if constexpr (I > 7) outer<7, V>(rows, i, column, rest, stride); break;
    default: break;
  }
}

// dw (cin, stride) += x^T dy over the rows of the list
inline void accumulate_outer(const RowList& rows, int cin, float* dw, int stride) {
  if (rows.count == 0) return;
  int column = 0;
  for (int left = stride; left > 0;) {
    if (left >= 24 && left != 32) {
      outer_inputs<block_rows(24), 24 / kLanes>(rows, cin, column, dw + column, stride);
      column += 24;
      left -= 24;
    } else if (left >= 16) {
      outer_inputs<block_rows(16), 16 / kLanes>(rows, cin, column, dw + column, stride);
      column += 16;
      left -= 16;
    } else {
      outer_inputs<block_rows(8), 8 / kLanes>(rows, cin, column, dw + column, stride);
      column += 8;
      left -= 8;
    }
  }
}

void weight_gradient(const float* x, int cin, const TapTable& table, const float* dy, std::int64_t n, int cout, float* dw,
                     Workspace& workspace, const Parallel& parallel) {
  const int padded = (cout + 7) / 8 * 8;  // the narrowest panel of accumulate_outer
  const int tile = std::max(1, std::min(kMaxTile, kGradientTile / padded));
  const std::int64_t period = std::max<std::int64_t>(table.period, 1);
  const std::size_t size = static_cast<std::size_t>(table.taps) * cin * padded;
  // Many rows: each chunk of them has its own accumulators. Few rows: the taps are shared out instead.
  const int chunks = static_cast<int>(std::min<std::int64_t>(kMaxChunks, std::max<std::int64_t>(1, n / kGradientChunk)));
  const std::int64_t chunk = (n + chunks - 1) / chunks;
  const int group = chunks >= 4 ? table.taps : std::max(1, table.taps / 9);
  const int groups = (table.taps + group - 1) / group;
  float* sums = workspace.floats(size * chunks);

  parallel_for(parallel, static_cast<std::size_t>(chunks) * groups, [&](std::size_t task) {
    const int c = static_cast<int>(task) / groups, first_tap = static_cast<int>(task) % groups * group;
    const int last_tap = std::min(first_tap + group, table.taps);
    float* own = sums + size * c;
    const std::size_t tap_size = static_cast<std::size_t>(cin) * padded;
    std::memset(own + tap_size * first_tap, 0, sizeof(float) * tap_size * (last_tap - first_tap));
    alignas(64) float padded_dy[kGradientTile];
    RowList list;
    const std::int64_t end = std::min(n, (c + 1) * chunk);
    for (std::int64_t first = c * chunk; first < end;) {
      const std::int64_t base = first / period * period;  // a tile stays within one period
      const int rows = static_cast<int>(std::min<std::int64_t>({tile, end - first, base + period - first}));
      float* tile_dy = const_cast<float*>(dy) + first * cout;  // only read: RowList serves accumulators too
      if (padded != cout) {
        for (int r = 0; r < rows; ++r) {
          std::memcpy(padded_dy + r * padded, dy + (first + r) * cout, sizeof(float) * cout);
          std::memset(padded_dy + r * padded + cout, 0, sizeof(float) * (padded - cout));
        }
        tile_dy = padded_dy;
      }
      if (table.neighbours == nullptr) {
        for (int r = 0; r < rows; ++r) {
          list.x[r] = x + (first + r) * cin;
          list.acc[r] = tile_dy + r * padded;
        }
        list.count = rows;
        accumulate_outer(list, cin, own, padded);
      } else {
        for (int k = first_tap; k < last_tap; ++k) {
          list_rows(x + base * cin, cin, table.neighbours + k * table.period + (first - base), rows, tile_dy, padded, list);
          accumulate_outer(list, cin, own + tap_size * k, padded);
        }
      }
      first += rows;
    }
  });

  parallel_for(parallel, static_cast<std::size_t>(table.taps), [&](std::size_t k) {
    for (int i = 0; i < cin; ++i) {
      const std::size_t row = k * cin + i;
      for (int j = 0; j < cout; ++j) {
        double sum = 0;
        for (int c = 0; c < chunks; ++c) sum += sums[size * c + row * padded + j];
        dw[row * cout + j] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace
}  // namespace zerograsp
