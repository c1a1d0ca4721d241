// What training needs beyond the convolutions of inference: the gradient of a convolution's weight, batch normalisation
// fused with what follows it, and rows gathered by index. Matrices are row-major float32 without padding.
//
// Sums run over blocks of rows whose size depends on the shapes alone and are merged in their order, so no result depends
// on the number of threads. The gradient of a convolution's input needs no kernel of its own: neighbourhood is symmetric
// (j is r's neighbour at tap k when r is j's at tap 26 - k), so it is the convolution of dy by the same table with the
// weight of `PackedWeight::mirrored`.
#pragma once
#include <cstdint>

#include "core/convolution.h"

namespace zerograsp {

// The rows that meet in each tap of a convolution.
struct TapTable {
  const std::int32_t* neighbours;  // (taps, period), -1 is missing; null: one tap that pairs row r with row r
  std::int64_t period;             // row r of y reads neighbours[r % period] + r / period * period (a batch of grids), or
                                   // the number of rows of y (an octree)
  int taps;
};

// dw (taps, cin, cout): dw[k] = sum over r of x[table(k, r)]^T dy[r], with dy (n, cout)
void conv_weight_gradient(const float* x, int cin, const TapTable& table, const float* dy, std::int64_t n, int cout,
                          float* dw, Workspace& workspace, const Parallel& parallel);

// Mean and biased variance of each column of x (n, channels), n > 0. Each block has its own mean and the blocks are merged
// in float64 (Chan, Golub, LeVeque 1979): no cancellation where the mean is large beside the deviation.
void batch_statistics(const float* x, std::int64_t n, int channels, float* mean, float* variance, Workspace& workspace,
                      const Parallel& parallel);

struct Normalisation {
  int channels;
  const float* mean;               // (channels)
  const float* inverse_deviation;  // (channels) 1 / sqrt(variance + eps)
  const float* weight;             // (channels)
  const float* bias;               // (channels)
  Activation activation;
};

// y (n, channels) = act((x - mean) * inverse_deviation * weight + bias + residual); residual may be null
void normalise(const float* x, std::int64_t n, const Normalisation& norm, const float* residual, float* y,
               const Parallel& parallel);

// Gradient of `normalise` whose mean and deviation are those of x itself. dresidual (n, channels) is null without a residual.
void normalise_gradient(const float* dy, const float* x, std::int64_t n, const Normalisation& norm, const float* residual,
                        float* dx, float* dweight, float* dbias, float* dresidual, Workspace& workspace,
                        const Parallel& parallel);

// y (n, channels): row i = base[i] + x[index[i]], where base may be null (zeros) and index[i] = -1 adds nothing
void gather_rows(const float* x, const std::int32_t* index, std::int64_t n, int channels, const float* base, float* y,
                 const Parallel& parallel);

}  // namespace zerograsp
