// Octree convolution with int8 weights and activations, summed exactly in int32; twins: ..._int8 in reference/convolution.py.
//
// Symmetric: a value is an integer from -127 to 127 times a scale, one for an activation and one for every output channel of a
// weight. Features come and go as float32; x / x_scale is rounded half to even and held within +-127, NaN becomes 0.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/activation.h"
#include "core/convolution.h"
#include "core/parallel.h"

namespace zerograsp {

constexpr std::int64_t kMostInt8Terms = 2147483647 / (127 * 127);  // products that an int32 sums exactly

// A weight in panels of output channels, pairs of inputs beside each other, widened to int16 as multiply-add instructions
// take them.
class PackedInt8 {
 public:
  PackedInt8() = default;
  // weight (cout, taps, cin), or (taps, cout, cin) with `taps_first`; scale (cout); bias (cout) or null for zeros; x_scale of
  // the activations it will meet. taps * cin <= kMostInt8Terms.
  PackedInt8(const std::int8_t* weight, const float* scale, const float* bias, int taps, int cin, int cout, float x_scale,
             bool taps_first = false);

  int taps = 0, cin = 0, cout = 0;
  int cout_padded = 0, pairs = 0;
  float x_scale = 1;
  std::vector<int> panels;  // widths
  std::vector<float> scale, bias;  // (cout_padded) x_scale * weight's scale; bias
  const std::int16_t* tap(int k) const { return values_.data() + static_cast<std::size_t>(k) * pairs * 2 * cout_padded; }

 private:
  std::vector<std::int16_t> values_;
};

class Int8Workspace {
 public:
  std::int16_t* values(int which, std::size_t count) {
    if (buffers_[which].size() < count) buffers_[which].resize(count);
    return buffers_[which].data();
  }

 private:
  std::vector<std::int16_t> buffers_[2];
};

struct ResidualInt8 {
  PackedInt8 a, conv, b, shortcut;  // shortcut.cin == 0: identity; x_scale of each is that of its input
};

// x (m, cin), y (n, cout) as the float32 functions of core/convolution.h have them.
void octree_conv_int8(const float* x, std::int64_t m, const std::int32_t* neighbours, std::int64_t n, const PackedInt8& w,
                      Activation act, float* y, Int8Workspace& workspace, const Parallel& parallel);

// w is packed from (cout, 8, cin) seen as (cout, 1, 8 * cin); x (8 * splits, cin)
void octree_downsample_int8(const float* x, std::int64_t splits, const std::int32_t* children, std::int64_t n,
                            const PackedInt8& w, Activation act, float* y, Int8Workspace& workspace, const Parallel& parallel);

// w is packed from (8, cout, cin); skip (.., cout) is not quantised, and may be null
void octree_upsample_int8(const float* x, std::int64_t m, const std::int32_t* rows, std::int64_t s, const PackedInt8& w,
                          Activation act, const float* skip, const std::int32_t* skip_index, float* y,
                          Int8Workspace& workspace, const Parallel& parallel);

// The hidden values are quantised too; the shortcut is x as it is quantised, or its product with shortcut's weight.
void octree_residual_int8(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualInt8& w, float* y,
                          Int8Workspace& workspace, const Parallel& parallel);

}  // namespace zerograsp
