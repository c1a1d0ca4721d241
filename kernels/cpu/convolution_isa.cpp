// The convolution kernels, compiled once per instruction set (ZG_ISA is its name).
//
// A tile of rows is accumulated in a buffer that stays in the first-level cache. For every tap the rows that have a
// neighbour are packed into a list, and groups of such rows meet a panel of 24 (16, 8) output channels in
// registers, so that each weight that is loaded is used by every row of the group. Missing neighbours cost nothing.
#include "cpu/convolution_isa.h"

#include <algorithm>
#include <cstring>

#include "cpu/half_lanes.h"
#include "cpu/row_list.h"
#include "cpu/tiles.h"

namespace zerograsp {
namespace {

constexpr int kDepthBlock = 256;    // input channels per pass of a dense product: a panel's slice stays in cache

// acc[r][column ..) += x[r][offset .. offset + cin) @ w for R rows and V vectors of outputs
template <int R, int V>
inline void multiply(const float* const* x, int offset, int cin, const float* w, float* const* acc, int column) {
  Vec a[R][V];
  const float* xr[R];
  for (int r = 0; r < R; ++r) {
    xr[r] = x[r] + offset;
    for (int v = 0; v < V; ++v) a[r][v] = load(acc[r] + column + v * kLanes);
  }
  for (int i = 0; i < cin; ++i, w += V * kLanes) {
    Vec wv[V];
    for (int v = 0; v < V; ++v) wv[v] = load(w + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec xv = splat(xr[r][i]);
      for (int v = 0; v < V; ++v) a[r][v] += xv * wv[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(acc[r] + column + v * kLanes, a[r][v]);
}

// The same for `count` rows, R at a time.
template <int R, int V>
inline void multiply_rows(const float* const* x, int count, int offset, int cin, const float* w, float* const* acc,
                          int column) {
  int i = 0;
  for (; i + R <= count; i += R) multiply<R, V>(x + i, offset, cin, w, acc + i, column);
  switch (count - i) {
    case 1: multiply<1, V>(x + i, offset, cin, w, acc + i, column); break;
    case 2: if constexpr (R > 2) multiply<2, V>(x + i, offset, cin, w, acc + i, column); break;
    case 3: if constexpr (R > 3) multiply<3, V>(x + i, offset, cin, w, acc + i, column); break;
    case 4: if constexpr (R > 4) multiply<4, V>(x + i, offset, cin, w, acc + i, column); break;
    case 5: if constexpr (R > 5) multiply<5, V>(x + i, offset, cin, w, acc + i, column); break;
    case 6: if constexpr (R > 6) multiply<6, V>(x + i, offset, cin, w, acc + i, column); break;
    case 7: if constexpr (R > 7) multiply<7, V>(x + i, offset, cin, w, acc + i, column); break;
    default: break;
  }
}

template <int kWidth>
inline void multiply_panel(const RowList& rows, int first, int cin, const float* w, int column) {
  multiply_rows<block_rows(kWidth), kWidth / kLanes>(rows.x, rows.count, first, cin, w, rows.acc, column);
}

// acc += x @ W[tap] for the rows of the list
inline void accumulate(const RowList& rows, const PackedWeight& w, int tap) {
  if (rows.count == 0) return;
  for (int first = 0; first < w.cin; first += kDepthBlock) {
    const int cin = std::min(kDepthBlock, w.cin - first);
    const float* panel = w.tap(tap);
    int column = 0;
    for (int width : w.panels) {
      const float* slice = panel + static_cast<std::size_t>(first) * width;
      if (width == 24) multiply_panel<24>(rows, first, cin, slice, column);
      else if (width == 16) multiply_panel<16>(rows, first, cin, slice, column);
      else multiply_panel<8>(rows, first, cin, slice, column);
      column += width;
      panel += static_cast<std::size_t>(w.cin) * width;
    }
  }
}

inline void fill_bias(float* acc, int rows, const PackedWeight& w) {
  for (int r = 0; r < rows; ++r) std::memcpy(acc + r * w.cout_padded, w.bias(), sizeof(float) * w.cout_padded);
}

// acc (rows, cout_padded) += the convolution of rows [first, first + rows) of the table
inline void convolve_tile(const float* x, int stride, const std::int32_t* neighbours, std::int64_t n, std::int64_t first,
                          int rows, const PackedWeight& w, float* acc) {
  RowList list;
  for (int k = 0; k < w.taps; ++k) {
    list_rows(x, stride, neighbours + static_cast<std::size_t>(k) * n + first, rows, acc, w.cout_padded, list);
    accumulate(list, w, k);
  }
}

// acc (rows, cout_padded) += x @ W for consecutive rows
inline void dense_tile(const float* x, int stride, int rows, const PackedWeight& w, int tap, float* acc) {
  RowList list;
  list.count = rows;
  for (int r = 0; r < rows; ++r) {
    list.x[r] = x + static_cast<std::size_t>(r) * stride;
    list.acc[r] = acc + r * w.cout_padded;
  }
  accumulate(list, w, tap);
}

void conv(const float* x, const std::int32_t* neighbours, std::int64_t n, const PackedWeight& w, Activation act, float* y,
          const Parallel& parallel) {
  for_tiles(n, tile_rows(w.cout_padded), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float acc[kTileFloats];
    fill_bias(acc, rows, w);
    convolve_tile(x, w.cin, neighbours, n, first, rows, w, acc);
    activate_buffer(acc, rows * w.cout_padded, act);
    copy_out(y + first * w.cout, acc, rows, w);
  });
}

void downsample(const float* x, const std::int32_t* children, std::int64_t n, const PackedWeight& w, Activation act,
                float* y, const Parallel& parallel) {
  for_tiles(n, tile_rows(w.cout_padded), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float acc[kTileFloats];
    RowList list;
    fill_bias(acc, rows, w);
    list_rows(x, w.cin, children + first, rows, acc, w.cout_padded, list);  // eight siblings are one row of x
    accumulate(list, w, 0);
    activate_buffer(acc, rows * w.cout_padded, act);
    copy_out(y + first * w.cout, acc, rows, w);
  });
}

void upsample(const float* x, const std::int32_t* rows_of, std::int64_t s, const PackedWeight& w, Activation act,
              const float* skip, const std::int32_t* skip_index, float* y, const Parallel& parallel) {
  for_tiles(s, std::min(32, tile_rows(w.cout_padded)), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float acc[kTileFloats];
    RowList list;
    list.count = rows;
    for (int r = 0; r < rows; ++r) {
      list.x[r] = x + static_cast<std::size_t>(rows_of[first + r]) * w.cin;
      list.acc[r] = acc + r * w.cout_padded;
    }
    for (int c = 0; c < 8; ++c) {
      fill_bias(acc, rows, w);
      accumulate(list, w, c);
      activate_buffer(acc, rows * w.cout_padded, act);
      for (int r = 0; r < rows; ++r) {
        const std::int64_t node = 8 * (first + r) + c;
        float* out = y + node * w.cout;
        const float* a = acc + r * w.cout_padded;
        const std::int32_t j = skip == nullptr ? -1 : skip_index[node];
        if (j < 0) {
          std::memcpy(out, a, sizeof(float) * w.cout);
        } else {
          const float* b = skip + static_cast<std::size_t>(j) * w.cout;
          for (int i = 0; i < w.cout; ++i) out[i] = a[i] + b[i];
        }
      }
    }
  });
}

void residual(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualWeights& w, float* y,
              Workspace& workspace, const Parallel& parallel) {
  const int hidden = w.a.cout_padded, cin = w.a.cin, cout = w.b.cout;
  float* h = workspace.floats(static_cast<std::size_t>(n) * hidden);
  for_tiles(n, tile_rows(hidden), parallel, [&](std::int64_t first, int rows) {
    float* out = h + first * hidden;
    fill_bias(out, rows, w.a);
    dense_tile(x + first * cin, cin, rows, w.a, 0, out);
    activate_buffer<Activation::kGelu>(out, rows * hidden);
  });
  for_tiles(n, tile_rows(std::max(hidden, w.b.cout_padded)), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float inner[kTileFloats];
    alignas(64) float acc[kTileFloats];
    fill_bias(inner, rows, w.conv);
    convolve_tile(h, hidden, neighbours, n, first, rows, w.conv, inner);
    activate_buffer<Activation::kGelu>(inner, rows * hidden);
    fill_bias(acc, rows, w.b);
    dense_tile(inner, hidden, rows, w.b, 0, acc);
    if (w.shortcut.cin > 0) {
      dense_tile(x + first * cin, cin, rows, w.shortcut, 0, acc);
    } else {
      for (int r = 0; r < rows; ++r) {
        float* a = acc + r * w.b.cout_padded;
        const float* b = x + (first + r) * cin;
        for (int i = 0; i < cout; ++i) a[i] += b[i];
      }
    }
    activate_buffer<Activation::kElu>(acc, rows * w.b.cout_padded);
    copy_out(y + first * cout, acc, rows, w.b);
  });
}

void linear(const float* x, std::int64_t n, const PackedWeight& w, Activation act, float* y, const Parallel& parallel) {
  for_tiles(n, tile_rows(w.cout_padded), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float acc[kTileFloats];
    fill_bias(acc, rows, w);
    dense_tile(x + first * w.cin, w.cin, rows, w, 0, acc);
    activate_buffer(acc, rows * w.cout_padded, act);
    copy_out(y + first * w.cout, acc, rows, w);
  });
}

void mlp(const float* x, std::int64_t n, const PackedWeight& w1, const PackedWeight& w2, float* y,
         const Parallel& parallel) {
  for_tiles(n, tile_rows(std::max(w1.cout_padded, w2.cout_padded)), parallel, [&](std::int64_t first, int rows) {
    alignas(64) float hidden[kTileFloats];
    alignas(64) float acc[kTileFloats];
    fill_bias(hidden, rows, w1);
    dense_tile(x + first * w1.cin, w1.cin, rows, w1, 0, hidden);
    activate_buffer<Activation::kGelu>(hidden, rows * w1.cout_padded);
    fill_bias(acc, rows, w2);
    dense_tile(hidden, w1.cout_padded, rows, w2, 0, acc);
    copy_out(y + first * w2.cout, acc, rows, w2);
  });
}

void grid(const float* x, std::int64_t n, const GridTable& table, const PackedWeight& w, Activation act,
          const float* residual, float* y, const Parallel& parallel) {
  const std::int64_t total = n * table.resolution * table.resolution * table.resolution;
  const int tile = tile_rows(w.cout_padded);
  const std::int64_t tiles_per_table = (table.rows + tile - 1) / tile;
  const std::int64_t tables = (total + table.rows - 1) / table.rows;
  parallel_for(parallel, static_cast<std::size_t>(tables), [&](std::size_t t) {
    const std::int64_t base = static_cast<std::int64_t>(t) * table.rows;
    for (std::int64_t i = 0; i < tiles_per_table; ++i) {
      const std::int64_t first = i * tile;
      const int rows = static_cast<int>(std::min<std::int64_t>({tile, table.rows - first, total - base - first}));
      if (rows <= 0) break;
      alignas(64) float acc[kTileFloats];
      fill_bias(acc, rows, w);
      convolve_tile(x + base * w.cin, w.cin, table.neighbours.data(), table.rows, first, rows, w, acc);
      if (residual != nullptr) {
        for (int r = 0; r < rows; ++r) {
          float* a = acc + r * w.cout_padded;
          const float* b = residual + (base + first + r) * w.cout;
          for (int j = 0; j < w.cout; ++j) a[j] += b[j];
        }
      }
      activate_buffer(acc, rows * w.cout_padded, act);
      copy_out(y + (base + first) * w.cout, acc, rows, w);
    }
  });
}

constexpr std::int64_t kConvertedAtOnce = 32768;  // elements a task converts

void widen_all(const Half* from, float* to, std::int64_t count, const Parallel& parallel) {
  for_tiles(count, kConvertedAtOnce, parallel, [&](std::int64_t first, int size) {
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) store(to + first + i, HalfLanes<Vec, IntVec>::load(from + first + i));
    for (; i < size; ++i) to[first + i] = widen(from[first + i]);
  });
}

void narrow_all(const float* from, Half* to, std::int64_t count, const Parallel& parallel) {
  for_tiles(count, kConvertedAtOnce, parallel, [&](std::int64_t first, int size) {
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) HalfLanes<Vec, IntVec>::store(to + first + i, load(from + first + i));
    for (; i < size; ++i) to[first + i] = narrow(from[first + i]);
  });
}

}  // namespace

#define ZG_CONCAT_(a, b) a##b
#define ZG_CONCAT(a, b) ZG_CONCAT_(a, b)
#define ZG_STRING_(a) #a
#define ZG_STRING(a) ZG_STRING_(a)

const ConvolutionKernels& ZG_CONCAT(convolution_kernels_, ZG_ISA)() {
  static const ConvolutionKernels kernels{ZG_STRING(ZG_ISA), &conv, &downsample, &upsample, &residual, &linear, &mlp, &grid,
                                          &widen_all, &narrow_all};
  return kernels;
}

}  // namespace zerograsp
