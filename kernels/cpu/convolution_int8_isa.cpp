// The int8 kernels, compiled once per instruction set (ZG_ISA is its name).
//
// As in convolution_isa.cpp, with pairs of inputs: one instruction (pmaddwd; on Arm smull and addp) multiplies two int16 of a
// row with two of each of a panel's outputs and adds them. Activations are widened to int16 once, when they are quantised.
#include "cpu/convolution_int8_isa.h"

#include <algorithm>
#include <cstring>

#include "cpu/tiles.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace zerograsp {
namespace {

using Sums = Rows<std::int16_t, std::int32_t>;

// acc + the sums of two neighbouring products of 2 * kLanes weights
inline IntVec multiply_add(IntVec acc, const std::int16_t* weights, std::int32_t pair) {
#if defined(__AVX2__)
  const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
  return acc + (IntVec)_mm256_madd_epi16(w, _mm256_set1_epi32(pair));
#elif defined(__SSE2__)
  const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights));
  return acc + (IntVec)_mm_madd_epi16(w, _mm_set1_epi32(pair));
#elif defined(__aarch64__)
  const int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(pair)), w = vld1q_s16(weights);
  const int32x4_t sums = vpaddq_s32(vmull_s16(vget_low_s16(w), vget_low_s16(x)), vmull_high_s16(w, x));
  return acc + (IntVec)sums;
#else
  std::int16_t x[2];
  std::memcpy(x, &pair, sizeof x);
  for (int j = 0; j < kLanes; ++j) acc[j] += weights[2 * j] * x[0] + weights[2 * j + 1] * x[1];
  return acc;
#endif
}

inline IntVec load(const std::int32_t* p) {
  IntVec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(std::int32_t* p, IntVec v) { std::memcpy(p, &v, sizeof v); }

// acc[r][column ..) += x[r] @ w for R rows and V vectors of outputs
template <int R, int V>
inline void multiply(const std::int16_t* const* x, int pairs, const std::int16_t* w, std::int32_t* const* acc, int column) {
  IntVec a[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) a[r][v] = load(acc[r] + column + v * kLanes);
  for (int p = 0; p < pairs; ++p, w += 2 * V * kLanes)
    for (int r = 0; r < R; ++r) {
      std::int32_t pair;
      std::memcpy(&pair, x[r] + 2 * p, sizeof pair);
      for (int v = 0; v < V; ++v) a[r][v] = multiply_add(a[r][v], w + 2 * v * kLanes, pair);
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(acc[r] + column + v * kLanes, a[r][v]);
}

template <int R, int V>
inline void multiply_rows(const Sums& rows, int pairs, const std::int16_t* w, int column) {
  int i = 0;
  for (; i + R <= rows.count; i += R) multiply<R, V>(rows.x + i, pairs, w, rows.acc + i, column);
  for (; i < rows.count; ++i) multiply<1, V>(rows.x + i, pairs, w, rows.acc + i, column);
}

// acc += x @ W[tap] for the rows of the list
inline void accumulate(const Sums& rows, const PackedInt8& w, int tap) {
  const std::int16_t* panel = w.tap(tap);
  int column = 0;
  for (int width : w.panels) {
    if (width == 24) multiply_rows<block_rows(24), 24 / kLanes>(rows, w.pairs, panel, column);
    else if (width == 16) multiply_rows<block_rows(16), 16 / kLanes>(rows, w.pairs, panel, column);
    else multiply_rows<block_rows(8), 8 / kLanes>(rows, w.pairs, panel, column);
    column += width;
    panel += static_cast<std::size_t>(w.pairs) * 2 * width;
  }
}

// Sums to activated float32, in place of them.
inline void finish(std::int32_t* acc, float* y, int rows, const PackedInt8& w, Activation act) {
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < w.cout_padded; j += kLanes) {
      const std::size_t at = static_cast<std::size_t>(r) * w.cout_padded + j;
      const Vec sum = __builtin_convertvector(load(acc + at), Vec);
      zerograsp::store(y + at, sum * zerograsp::load(w.scale.data() + j) + zerograsp::load(w.bias.data() + j));
    }
  activate_buffer(y, rows * w.cout_padded, act);
}

inline Vec rounded(Vec x, float scale) {
  Vec q = x / splat(scale);
  q = select(q == q, q, splat(0.0f));
  q = minimum(maximum(q, splat(-127.0f)), splat(127.0f));
  return (q + splat(12582912.0f)) - splat(12582912.0f);  // 1.5 * 2^23: to the nearest, ties to even
}

// (rows, columns) floats, `from_stride` apart, to int16 rows of an even number of columns, `to_stride` apart; the last is zero
// where columns are odd.
inline void quantise(const float* from, int from_stride, int rows, int columns, float scale, std::int16_t* to, int to_stride) {
  for (int r = 0; r < rows; ++r) {
    const float* x = from + static_cast<std::size_t>(r) * from_stride;
    std::int16_t* y = to + static_cast<std::size_t>(r) * to_stride;
    int i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
      const Vec q = rounded(zerograsp::load(x + i), scale);
      for (int j = 0; j < kLanes; ++j) y[i + j] = static_cast<std::int16_t>(q[j]);
    }
    for (; i < columns; ++i) y[i] = static_cast<std::int16_t>(rounded(splat(x[i]), scale)[0]);
    for (; i < to_stride; ++i) y[i] = 0;
  }
}

inline const std::int16_t* quantise_all(const float* x, std::int64_t rows, const PackedInt8& w, Int8Workspace& workspace,
                                        int which, const Parallel& parallel) {
  const int stride = 2 * w.pairs;
  std::int16_t* out = workspace.values(which, static_cast<std::size_t>(rows) * stride);
  for_tiles(rows, kMaxTile, parallel, [&](std::int64_t first, int count) {
    quantise(x + first * w.cin, w.cin, count, w.cin, w.x_scale, out + first * stride, stride);
  });
  return out;
}

inline void clear(std::int32_t* acc, int rows, const PackedInt8& w) {
  std::memset(acc, 0, sizeof(std::int32_t) * rows * w.cout_padded);
}

inline void convolve_tile(const std::int16_t* x, int stride, const std::int32_t* neighbours, std::int64_t n, std::int64_t first,
                          int rows, const PackedInt8& w, std::int32_t* acc) {
  Sums list;
  for (int k = 0; k < w.taps; ++k) {
    list_rows(x, stride, neighbours + static_cast<std::size_t>(k) * n + first, rows, acc, w.cout_padded, list);
    accumulate(list, w, k);
  }
}

inline void dense_tile(const std::int16_t* x, int stride, int rows, const PackedInt8& w, std::int32_t* acc) {
  Sums list;
  list.count = rows;
  for (int r = 0; r < rows; ++r) {
    list.x[r] = x + static_cast<std::size_t>(r) * stride;
    list.acc[r] = acc + r * w.cout_padded;
  }
  accumulate(list, w, 0);
}

void conv(const float* x, std::int64_t m, const std::int32_t* neighbours, std::int64_t n, const PackedInt8& w, Activation act,
          float* y, Int8Workspace& workspace, const Parallel& parallel) {
  const std::int16_t* q = quantise_all(x, m, w, workspace, 0, parallel);
  for_tiles(n, tile_rows(w.cout_padded), parallel, [&](std::int64_t first, int rows) {
    alignas(64) std::int32_t acc[kTileFloats];
    alignas(64) float out[kTileFloats];
    clear(acc, rows, w);
    convolve_tile(q, 2 * w.pairs, neighbours, n, first, rows, w, acc);
    finish(acc, out, rows, w, act);
    copy_out(y + first * w.cout, out, rows, w);
  });
}

void downsample(const float* x, std::int64_t splits, const std::int32_t* children, std::int64_t n, const PackedInt8& w,
                Activation act, float* y, Int8Workspace& workspace, const Parallel& parallel) {
  conv(x, splits, children, n, w, act, y, workspace, parallel);  // eight siblings are one row of x
}

void upsample(const float* x, std::int64_t m, const std::int32_t* rows_of, std::int64_t s, const PackedInt8& w, Activation act,
              const float* skip, const std::int32_t* skip_index, float* y, Int8Workspace& workspace, const Parallel& parallel) {
  const std::int16_t* q = quantise_all(x, m, w, workspace, 0, parallel);
  for_tiles(s, std::min(32, tile_rows(w.cout_padded)), parallel, [&](std::int64_t first, int rows) {
    alignas(64) std::int32_t acc[kTileFloats];
    alignas(64) float out[kTileFloats];
    Sums list;
    list.count = rows;
    for (int r = 0; r < rows; ++r) {
      list.x[r] = q + static_cast<std::size_t>(rows_of[first + r]) * 2 * w.pairs;
      list.acc[r] = acc + r * w.cout_padded;
    }
    for (int c = 0; c < 8; ++c) {
      clear(acc, rows, w);
      accumulate(list, w, c);
      finish(acc, out, rows, w, act);
      for (int r = 0; r < rows; ++r) {
        const std::int64_t node = 8 * (first + r) + c;
        float* to = y + node * w.cout;
        const float* from = out + r * w.cout_padded;
        std::memcpy(to, from, sizeof(float) * w.cout);
        const std::int32_t j = skip == nullptr ? -1 : skip_index[node];
        if (j < 0) continue;
        const float* other = skip + static_cast<std::size_t>(j) * w.cout;
        for (int i = 0; i < w.cout; ++i) to[i] += other[i];
      }
    }
  });
}

void residual(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualInt8& w, float* y,
              Int8Workspace& workspace, const Parallel& parallel) {
  const std::int16_t* q = quantise_all(x, n, w.a, workspace, 0, parallel);
  const int stride = 2 * w.a.pairs, hidden = 2 * w.conv.pairs, inner = 2 * w.b.pairs;
  std::int16_t* h = workspace.values(1, static_cast<std::size_t>(n) * hidden);
  for_tiles(n, tile_rows(w.a.cout_padded), parallel, [&](std::int64_t first, int rows) {
    alignas(64) std::int32_t acc[kTileFloats];
    alignas(64) float out[kTileFloats];
    clear(acc, rows, w.a);
    dense_tile(q + first * stride, stride, rows, w.a, acc);
    finish(acc, out, rows, w.a, Activation::kGelu);
    quantise(out, w.a.cout_padded, rows, w.a.cout, w.conv.x_scale, h + first * hidden, hidden);
  });
  const int widest = std::max({w.conv.cout_padded, inner, w.b.cout_padded});
  for_tiles(n, tile_rows(widest), parallel, [&](std::int64_t first, int rows) {
    alignas(64) std::int32_t acc[kTileFloats];
    alignas(64) float out[kTileFloats];
    alignas(64) float side[kTileFloats];
    alignas(64) std::int16_t second[kTileFloats];
    clear(acc, rows, w.conv);
    convolve_tile(h, hidden, neighbours, n, first, rows, w.conv, acc);
    finish(acc, out, rows, w.conv, Activation::kGelu);
    quantise(out, w.conv.cout_padded, rows, w.conv.cout, w.b.x_scale, second, inner);
    clear(acc, rows, w.b);
    dense_tile(second, inner, rows, w.b, acc);
    finish(acc, out, rows, w.b, Activation::kNone);
    if (w.shortcut.cin > 0) {
      clear(acc, rows, w.shortcut);
      dense_tile(q + first * stride, stride, rows, w.shortcut, acc);
      finish(acc, side, rows, w.shortcut, Activation::kNone);
      for (int i = 0; i < rows * w.b.cout_padded; ++i) out[i] += side[i];
    } else {
      for (int r = 0; r < rows; ++r)
        for (int i = 0; i < w.b.cout; ++i)
          out[r * w.b.cout_padded + i] += static_cast<float>(q[(first + r) * stride + i]) * w.a.x_scale;
    }
    activate_buffer(out, rows * w.b.cout_padded, Activation::kElu);
    copy_out(y + first * w.b.cout, out, rows, w.b);
  });
}

}  // namespace

#define ZG_CONCAT_(a, b) a##b
#define ZG_CONCAT(a, b) ZG_CONCAT_(a, b)

const Int8Kernels& ZG_CONCAT(int8_kernels_, ZG_ISA)() {
  static const Int8Kernels kernels{&conv, &downsample, &upsample, &residual};
  return kernels;
}

}  // namespace zerograsp
