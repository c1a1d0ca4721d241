// Octree convolutions in int8, and what their fused units are made of.
//
// Scales are applied in float32 and rounded to int8 in the order that api.h says: compile with --fmad=false.
#include <cmath>

#include "cuda/convolution_kernel.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T values[kCount];
};

// A thread takes kCount consecutive values: one load, one store.
template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const T* x, Extent rows, std::int32_t channels, float scale, std::int8_t* y) {
  const std::int64_t count = rows.size() * channels, first = global_thread() * kCount;
  if (first + kCount <= count) {
    const auto from = *reinterpret_cast<const Pack<T, kCount>*>(x + first);
    Pack<std::int8_t, kCount> to;
    ZG_UNROLL
    for (int i = 0; i < kCount; ++i) to.values[i] = quantized(to_float(from.values[i]), scale);
    *reinterpret_cast<Pack<std::int8_t, kCount>*>(y + first) = to;
  } else {
    for (std::int64_t i = first; i < count; ++i) y[i] = quantized(to_float(x[i]), scale);
  }
}

template <class T, int kCount>
int quantize(const T* x, const Extent& rows, std::int32_t channels, float scale, std::int8_t* y, cudaStream_t stream) {
  const std::int64_t blocks = blocks_for(rows.capacity * channels, kThreads * kCount);
  ZG_TRY(expect_size("blocks (rows x channels)", blocks, 0, kMaxRows));
  return launch(quantize_kernel<T, kCount>, blocks, kThreads, stream, x, rows, channels, scale, y);
}

int expect_scale(const char* name, float scale) {
  if (scale > 0.0f && std::isfinite(scale)) return 0;
  return invalid("%s: expected a positive, finite number, got %g", name, static_cast<double>(scale));
}

int expect_type(const char* name, std::int32_t type) {
  if (type == kZgFloat32 || type == kZgFloat16 || type == kZgInt8) return 0;
  return invalid("%s: expected %d (float32), %d (float16) or %d (int8), got %d", name, kZgFloat32, kZgFloat16, kZgInt8, type);
}

// Bytes of a matrix of int8 or, with `element_bytes` 4, float32.
std::size_t matrix_bytes(std::int64_t rows, int columns, std::size_t element_bytes) {
  if (rows < 0 || columns < 0) return 0;
  const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element_bytes;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

using Quantized = Product<std::int8_t>;

Quantized product_of(const std::int8_t* x, float x_scale, std::int64_t n, const std::int32_t* n_count, const std::int8_t* weight,
                     const float* weight_scale, const float* bias, int taps, int cin, int cout, int activation,
                     std::int32_t type, float y_scale, void* y) {
  auto p = product<std::int8_t>(x, n, n_count, weight, bias, taps, cin, cout, activation, {y, type, y_scale});
  p.scales = {x_scale, weight_scale};
  return p;
}

int check_scales_and_multiply(const Quantized& p, cudaStream_t stream) {
  ZG_TRY(expect_type("type", p.y.type));
  ZG_TRY(expect_scale("x_scale", p.scales.x));
  if (p.y.type == kZgInt8) ZG_TRY(expect_scale("y_scale", p.y.scale));
  ZG_TRY(expect_pointer("weight_scale", p.scales.weight, p.rows.capacity > 0));
  return check_and_multiply(p, stream);
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

int zg_cuda_quantize(int32_t type, const void* x, int64_t n, const int32_t* n_count, int32_t channels, float scale, int8_t* y,
                     CUstream_st* stream) {
  ZG_TRY(expect_size("channels", channels, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_scale("scale", scale));
  ZG_TRY(expect_pointer("x", x, n > 0));
  ZG_TRY(expect_pointer("y", y, n > 0));
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    constexpr int kCount = 16 / static_cast<int>(sizeof(T));  // in a load of 16 bytes, the widest
    const bool aligned = reinterpret_cast<std::uintptr_t>(x) % 16 == 0 && reinterpret_cast<std::uintptr_t>(y) % kCount == 0;
    const auto* from = static_cast<const T*>(x);
    return aligned ? quantize<T, kCount>(from, {n, n_count}, channels, scale, y, stream)
                   : quantize<T, 1>(from, {n, n_count}, channels, scale, y, stream);
  });
}

int zg_cuda_octree_conv_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* neighbours, int32_t taps, int64_t n,
                             const int32_t* n_count, const int8_t* weight, const float* weight_scale, const float* bias,
                             int32_t cin, int32_t cout, int32_t activation, int32_t type, float y_scale, void* y,
                             CUstream_st* stream) {
  auto p = product_of(x, x_scale, n, n_count, weight, weight_scale, bias, taps, cin, cout, activation, type, y_scale, y);
  ZG_TRY(take_rows(p, RowSource::kTable, neighbours, x_rows));
  return check_scales_and_multiply(p, stream);
}

int zg_cuda_octree_downsample_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* children, int64_t n, const int32_t* n_count,
                                   const int8_t* weight, const float* weight_scale, const float* bias, int32_t cin, int32_t cout,
                                   int32_t activation, int32_t type, float y_scale, void* y, CUstream_st* stream) {
  auto p = product_of(x, x_scale, n, n_count, weight, weight_scale, bias, 8, cin, cout, activation, type, y_scale, y);
  ZG_TRY(take_rows(p, RowSource::kSiblings, children, x_rows));
  return check_scales_and_multiply(p, stream);
}

int zg_cuda_octree_upsample_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* split_rows, int64_t splits,
                                 const int32_t* splits_count, const int8_t* weight, const float* weight_scale, const float* bias,
                                 int32_t cin, int32_t cout, int32_t activation, int32_t skip_type, float skip_scale,
                                 const void* skip, int64_t skip_rows, const int32_t* skip_index, int32_t type, float y_scale, void* y,
                                 CUstream_st* stream) {
  if (skip != nullptr) {
    ZG_TRY(expect_type("skip_type", skip_type));
    if (skip_type == kZgInt8) ZG_TRY(expect_scale("skip_scale", skip_scale));
  }
  auto p = product_of(x, x_scale, splits, splits_count, weight, weight_scale, bias, 1, cin, cout, activation, type, y_scale, y);
  ZG_TRY(take_rows(p, RowSource::kListed, split_rows, x_rows));
  p.children = 8;
  ZG_TRY(add_skip(p, {skip, skip_type, skip_scale}, skip_index, skip_rows));
  return check_scales_and_multiply(p, stream);
}

int zg_cuda_octree_linear_int8(const int8_t* x, float x_scale, int64_t n, const int32_t* n_count, const int8_t* weight,
                               const float* weight_scale, const float* bias, int32_t cin, int32_t cout, int32_t activation,
                               int32_t type, float y_scale, void* y, CUstream_st* stream) {
  return check_scales_and_multiply(
      product_of(x, x_scale, n, n_count, weight, weight_scale, bias, 1, cin, cout, activation, type, y_scale, y), stream);
}

size_t zg_cuda_octree_mlp_int8_workspace(int64_t n, int32_t hidden) { return matrix_bytes(n, hidden, 1); }

int zg_cuda_octree_mlp_int8(const int8_t* x, float x_scale, int64_t n, const int32_t* n_count, const int8_t* w1,
                            const float* w1_scale, const float* b1, float hidden_scale, const int8_t* w2, const float* w2_scale,
                            const float* b2, int32_t cin, int32_t hidden, int32_t cout, int32_t type, float y_scale, void* y,
                            void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxSummands));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_scale("hidden_scale", hidden_scale));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_mlp_int8_workspace(n, hidden)));
  auto* inner = static_cast<std::int8_t*>(workspace);
  ZG_TRY(zg_cuda_octree_linear_int8(x, x_scale, n, n_count, w1, w1_scale, b1, cin, hidden, kZgGelu, kZgInt8, hidden_scale, inner,
                                    stream));
  return zg_cuda_octree_linear_int8(inner, hidden_scale, n, n_count, w2, w2_scale, b2, hidden, cout, kZgNone, type, y_scale, y,
                                    stream);
}

size_t zg_cuda_octree_residual_int8_workspace(int64_t n, int32_t hidden, int32_t cout) {
  return 2 * matrix_bytes(n, hidden, 1) + matrix_bytes(n, cout, sizeof(float));
}

int zg_cuda_octree_residual_int8(const int8_t* x, float x_scale, const int32_t* neighbours, int32_t taps, int64_t n,
                                 const int32_t* n_count, const int8_t* wa, const float* wa_scale, const float* ba,
                                 float first_scale, const int8_t* w3, const float* w3_scale, const float* b3, float second_scale,
                                 const int8_t* wb, const float* wb_scale, const float* bb, const int8_t* wc,
                                 const float* wc_scale, int32_t cin, int32_t hidden, int32_t cout, int32_t type, float y_scale,
                                 void* y, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxSummands));
  ZG_TRY(expect_size("cout", cout, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_scale("first_scale", first_scale));
  ZG_TRY(expect_scale("second_scale", second_scale));
  if (wc == nullptr && cin != cout) return invalid("wc: expected a projection of the shortcut, as cin is %d and cout %d", cin, cout);
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_residual_int8_workspace(n, hidden, cout)));
  auto* first = static_cast<std::int8_t*>(workspace);
  auto* second = first + matrix_bytes(n, hidden, 1);
  auto* shortcut = reinterpret_cast<float*>(second + matrix_bytes(n, hidden, 1));
  ZG_TRY(zg_cuda_octree_linear_int8(x, x_scale, n, n_count, wa, wa_scale, ba, cin, hidden, kZgGelu, kZgInt8, first_scale, first,
                                    stream));
  ZG_TRY(zg_cuda_octree_conv_int8(first, first_scale, n, neighbours, taps, n, n_count, w3, w3_scale, b3, hidden, hidden, kZgGelu,
                                  kZgInt8, second_scale, second, stream));
  auto p = product_of(second, second_scale, n, n_count, wb, wb_scale, bb, 1, hidden, cout, kZgElu, type, y_scale, y);
  p.residual = {x, kZgInt8, x_scale};
  if (wc != nullptr) {  // its int32 sums have another scale than those of wb: they cannot share the accumulators
    ZG_TRY(zg_cuda_octree_linear_int8(x, x_scale, n, n_count, wc, wc_scale, nullptr, cin, cout, kZgNone, kZgFloat32, 1.0f,
                                      shortcut, stream));
    p.residual = {shortcut, kZgFloat32, 1.0f};
  }
  return check_scales_and_multiply(p, stream);
}
