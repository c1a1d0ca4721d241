// Octree convolutions in float32 and float16.
#include "cuda/convolution_kernel.h"

namespace zerograsp {
namespace cuda {
namespace {

template <class T>
Product<T> product_of(const void* x, std::int64_t n, const std::int32_t* n_count, const void* weight, const float* bias, int taps,
                      int cin, int cout, int activation, void* y) {
  return product<T>(x, n, n_count, weight, bias, taps, cin, cout, activation, {static_cast<T*>(y)});
}

std::size_t element_size(std::int32_t type) { return type == kZgFloat16 ? 2 : 4; }

std::size_t matrix_bytes(std::int32_t type, std::int64_t rows, int columns) {
  const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element_size(type);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

int zg_cuda_octree_conv(int32_t type, const void* x, int64_t x_rows, const int32_t* neighbours, int32_t taps, int64_t n,
                        const int32_t* n_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                        int32_t activation, void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    auto p = product_of<decltype(element)>(x, n, n_count, weight, bias, taps, cin, cout, activation, y);
    ZG_TRY(take_rows(p, RowSource::kTable, neighbours, x_rows));
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_downsample(int32_t type, const void* x, int64_t x_rows, const int32_t* children, int64_t n, const int32_t* n_count,
                              const void* weight, const float* bias, int32_t cin, int32_t cout, int32_t activation,
                              void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    auto p = product_of<decltype(element)>(x, n, n_count, weight, bias, 8, cin, cout, activation, y);
    ZG_TRY(take_rows(p, RowSource::kSiblings, children, x_rows));
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_upsample(int32_t type, const void* x, int64_t x_rows, const int32_t* split_rows, int64_t splits,
                            const int32_t* splits_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                            int32_t activation, const void* skip, int64_t skip_rows, const int32_t* skip_index, void* y,
                            CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    auto p = product_of<T>(x, splits, splits_count, weight, bias, 1, cin, cout, activation, y);
    ZG_TRY(take_rows(p, RowSource::kListed, split_rows, x_rows));
    p.children = 8;
    ZG_TRY(add_skip(p, {static_cast<const T*>(skip)}, skip_index, skip_rows));
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_linear(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* weight,
                          const float* bias, int32_t cin, int32_t cout, int32_t activation, void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    return check_and_multiply(product_of<decltype(element)>(x, n, n_count, weight, bias, 1, cin, cout, activation, y), stream);
  });
}

size_t zg_cuda_octree_mlp_workspace(int32_t type, int64_t n, int32_t hidden) { return matrix_bytes(type, n, hidden); }

int zg_cuda_octree_mlp(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* w1, const float* b1,
                       const void* w2, const float* b2, int32_t cin, int32_t hidden, int32_t cout, void* y,
                       void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_mlp_workspace(type, n, hidden)));
  ZG_TRY(zg_cuda_octree_linear(type, x, n, n_count, w1, b1, cin, hidden, kZgGelu, workspace, stream));
  return zg_cuda_octree_linear(type, workspace, n, n_count, w2, b2, hidden, cout, kZgNone, y, stream);
}

size_t zg_cuda_octree_residual_workspace(int32_t type, int64_t n, int32_t hidden) {
  return 2 * matrix_bytes(type, n, hidden);
}

int zg_cuda_octree_residual(int32_t type, const void* x, const int32_t* neighbours, int32_t taps, int64_t n,
                            const int32_t* n_count, const void* wa, const float* ba, const void* w3, const float* b3,
                            const void* wb, const float* bb, const void* wc, int32_t cin, int32_t hidden, int32_t cout,
                            void* y, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  if (wc == nullptr && cin != cout) return invalid("wc: expected a projection of the shortcut, as cin is %d and cout %d", cin, cout);
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_residual_workspace(type, n, hidden)));
  void* first = workspace;
  void* second = static_cast<char*>(workspace) + matrix_bytes(type, n, hidden);
  ZG_TRY(zg_cuda_octree_linear(type, x, n, n_count, wa, ba, cin, hidden, kZgGelu, first, stream));
  ZG_TRY(zg_cuda_octree_conv(type, first, n, neighbours, taps, n, n_count, w3, b3, hidden, hidden, kZgGelu, second, stream));
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    auto p = product_of<T>(second, n, n_count, wb, bb, 1, hidden, cout, kZgElu, y);
    if (wc != nullptr) p.extra = {static_cast<const T*>(x), static_cast<const T*>(wc), 1, cin};
    else p.residual = {static_cast<const T*>(x)};
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_grid_conv(int32_t type, const void* x, int64_t grids, int32_t resolution, const void* weight,
                      const float* bias, int32_t cin, int32_t cout, int32_t activation, const void* residual, void* y,
                      CUstream_st* stream) {
  ZG_TRY(expect_size("resolution", resolution, 1, 32));
  ZG_TRY(expect_size("grids", grids, 0, kMaxRows / 32768));
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    const std::int64_t cells = static_cast<std::int64_t>(resolution) * resolution * resolution;
    auto p = product_of<T>(x, grids * cells, nullptr, weight, bias, 27, cin, cout, activation, y);
    p.source = RowSource::kGrid, p.resolution = resolution, p.residual = {static_cast<const T*>(residual)};
    return check_and_multiply(p, stream);
  });
}
