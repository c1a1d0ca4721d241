// Octree convolution on the CPU: gather, GEMM, bias and activation in one pass over tiles of nodes.
//
// Weights are packed once, when a graph is loaded. All feature matrices are row-major float32 without padding.
// Tables (`neighbours`) are tap-major (K, N) int32 with -1 for a missing neighbour; see kernels/README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/activation.h"
#include "core/parallel.h"

namespace zerograsp {

constexpr int kMaxOutputs = 3072;  // output channels: four rows of accumulators must fit a tile

// A (taps, cin, cout) weight and its bias, re-ordered into panels of 24, 16 or 8 output channels that fit the registers.
class PackedWeight {
 public:
  PackedWeight() = default;
  // weight (taps, cin, cout) row-major; bias (cout) or null for zeros.
  PackedWeight(const float* weight, const float* bias, int taps, int cin, int cout);
  // For the gradient of a convolution's input, from its weight (taps, cin, cout): tap k is the transposed tap taps - 1 - k.
  static PackedWeight mirrored(const float* weight, int taps, int cin, int cout);

  int taps = 0, cin = 0, cout = 0;
  int cout_padded = 0;            // sum of the panel widths
  std::vector<int> panels;        // widths
  const float* data() const { return aligned_; }
  const float* bias() const { return aligned_ + static_cast<std::size_t>(taps) * cin * cout_padded; }
  const float* tap(int k) const { return aligned_ + static_cast<std::size_t>(k) * cin * cout_padded; }

 private:
  std::vector<float> storage_;
  float* aligned_ = nullptr;

 public:
  PackedWeight(PackedWeight&&) = default;  // moving a vector keeps its buffer, so aligned_ stays valid
  PackedWeight& operator=(PackedWeight&&) = default;
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;
};

// Scratch that grows and never shrinks.
class Workspace {
 public:
  float* floats(std::size_t count);  // 64-byte aligned; contents undefined; valid until the next call

 private:
  std::vector<float> storage_;
};

struct ResidualWeights {
  PackedWeight a, conv, b, shortcut;  // shortcut.cin == 0: identity. The shortcut's bias is part of b's.
};

// y (n, cout) = act(sum_k x[neighbours[k, i]] @ W[k] + bias)
void octree_conv(const float* x, const std::int32_t* neighbours, std::int64_t n, const PackedWeight& w, Activation act,
                 float* y, const Parallel& parallel);

// y (n, cout) = act([x[8c] .. x[8c+7]] @ W + bias) with c = children[i]; act(bias) where children[i] < 0.
// w is packed from (8, cin, cout) seen as (1, 8 * cin, cout)
void octree_downsample(const float* x, const std::int32_t* children, std::int64_t n, const PackedWeight& w,
                       Activation act, float* y, const Parallel& parallel);

// y (8 s, cout): row 8 i + c = act(x[rows[i]] @ W[c] + bias) + (skip_index[8 i + c] >= 0 ? skip[skip_index[..]] : 0);
// w has 8 taps, one per child; skip may be null
void octree_upsample(const float* x, const std::int32_t* rows, std::int64_t s, const PackedWeight& w, Activation act,
                     const float* skip, const std::int32_t* skip_index, float* y, const Parallel& parallel);

// All of conv's, b's inputs have a.cout channels. y (n, cout) = ELU(shortcut(x) + GELU(conv(GELU(x Wa + ba)) + b3) Wb + bb)
void octree_residual(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualWeights& w, float* y,
                     Workspace& workspace, const Parallel& parallel);

// y (n, cout) = act(x W + bias)
void octree_linear(const float* x, std::int64_t n, const PackedWeight& w, Activation act, float* y, const Parallel& parallel);

// y (n, out) = GELU(x W1 + b1) W2 + b2
void octree_mlp(const float* x, std::int64_t n, const PackedWeight& w1, const PackedWeight& w2, float* y,
                const Parallel& parallel);

constexpr int kMaxGridResolution = 32;

// The 27 neighbours inside dense grids of r^3 voxels (x slowest): a table like `neighbours`, relative to its first row and
// covering as many whole grids as make a tile worth while.
struct GridTable {
  explicit GridTable(int resolution);
  int resolution, rows;
  std::vector<std::int32_t> neighbours;  // (27, rows)
};

// y (n r^3, cout) = act(conv of n separate grids x (n r^3, cin), zero padding, + bias + residual); residual may be null
void grid_conv(const float* x, std::int64_t n, const GridTable& grid, const PackedWeight& w, Activation act,
               const float* residual, float* y, const Parallel& parallel);

// Name of the instruction set in use ("avx2", "baseline").
const char* convolution_isa();
// Forces one (tests); returns false when this machine or this build lacks it. Null: automatic.
bool set_convolution_isa(const char* name);

}  // namespace zerograsp
