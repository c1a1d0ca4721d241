// Packing of int8 weights, and the choice of instruction set.
#include "core/convolution_int8.h"

#include <cstring>

#include "cpu/convolution_int8_isa.h"

namespace zerograsp {
namespace {

const Int8Kernels& kernels() {
#ifdef ZG_HAVE_ISA_avx2
  if (std::strcmp(convolution_isa(), "avx2") == 0) return int8_kernels_avx2();
#endif
  return int8_kernels_baseline();
}

}  // namespace

PackedInt8::PackedInt8(const std::int8_t* weight, const float* weight_scale, const float* bias_, int taps_, int cin_, int cout_,
                       float x_scale_, bool taps_first)
    : taps(taps_), cin(cin_), cout(cout_), pairs((cin_ + 1) / 2), x_scale(x_scale_) {
  for (int left = (cout + 7) / 8 * 8; left > 0; left -= panels.back()) {
    panels.push_back(left >= 24 && left != 32 ? 24 : left >= 16 ? 16 : 8);
    cout_padded += panels.back();
  }
  const auto at = [&](int k, int i, int j) -> std::int16_t {
    if (i >= cin || j >= cout) return 0;
    const std::size_t row = taps_first ? static_cast<std::size_t>(k) * cout + j : static_cast<std::size_t>(j) * taps + k;
    return weight[row * cin + i];
  };
  values_.reserve(static_cast<std::size_t>(taps) * pairs * 2 * cout_padded);
  for (int k = 0; k < taps; ++k) {
    int first = 0;
    for (int width : panels) {
      for (int p = 0; p < pairs; ++p)
        for (int j = first; j < first + width; ++j) {
          values_.push_back(at(k, 2 * p, j));
          values_.push_back(at(k, 2 * p + 1, j));
        }
      first += width;
    }
  }
  scale.assign(cout_padded, 0.0f);
  bias.assign(cout_padded, 0.0f);
  for (int j = 0; j < cout; ++j) {
    scale[j] = static_cast<float>(static_cast<double>(x_scale) * weight_scale[j]);
    if (bias_ != nullptr) bias[j] = bias_[j];
  }
}

void octree_conv_int8(const float* x, std::int64_t m, const std::int32_t* neighbours, std::int64_t n, const PackedInt8& w,
                      Activation act, float* y, Int8Workspace& workspace, const Parallel& parallel) {
  kernels().conv(x, m, neighbours, n, w, act, y, workspace, parallel);
}

void octree_downsample_int8(const float* x, std::int64_t splits, const std::int32_t* children, std::int64_t n,
                            const PackedInt8& w, Activation act, float* y, Int8Workspace& workspace, const Parallel& parallel) {
  kernels().downsample(x, splits, children, n, w, act, y, workspace, parallel);
}

void octree_upsample_int8(const float* x, std::int64_t m, const std::int32_t* rows, std::int64_t s, const PackedInt8& w,
                          Activation act, const float* skip, const std::int32_t* skip_index, float* y,
                          Int8Workspace& workspace, const Parallel& parallel) {
  kernels().upsample(x, m, rows, s, w, act, skip, skip_index, y, workspace, parallel);
}

void octree_residual_int8(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualInt8& w, float* y,
                          Int8Workspace& workspace, const Parallel& parallel) {
  kernels().residual(x, neighbours, n, w, y, workspace, parallel);
}

}  // namespace zerograsp
