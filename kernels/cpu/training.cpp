// The training kernels: choice of the instruction set, and what needs none.
#include "core/training.h"

#include <algorithm>
#include <cstring>

#include "cpu/training_isa.h"

namespace zerograsp {
namespace {

const TrainingKernels& kernels() {
#ifdef ZG_HAVE_ISA_avx2
  if (std::strcmp(convolution_isa(), "avx2") == 0) return training_kernels_avx2();
#endif
  return training_kernels_baseline();
}

}  // namespace

void conv_weight_gradient(const float* x, int cin, const TapTable& table, const float* dy, std::int64_t n, int cout,
                          float* dw, Workspace& workspace, const Parallel& parallel) {
  kernels().weight_gradient(x, cin, table, dy, n, cout, dw, workspace, parallel);
}

void batch_statistics(const float* x, std::int64_t n, int channels, float* mean, float* variance, Workspace& workspace,
                      const Parallel& parallel) {
  kernels().statistics(x, n, channels, mean, variance, workspace, parallel);
}

void normalise(const float* x, std::int64_t n, const Normalisation& norm, const float* residual, float* y,
               const Parallel& parallel) {
  kernels().forward(x, n, norm, residual, y, parallel);
}

void normalise_gradient(const float* dy, const float* x, std::int64_t n, const Normalisation& norm, const float* residual,
                        float* dx, float* dweight, float* dbias, float* dresidual, Workspace& workspace,
                        const Parallel& parallel) {
  kernels().backward(dy, x, n, norm, residual, dx, dweight, dbias, dresidual, workspace, parallel);
}

void gather_rows(const float* x, const std::int32_t* index, std::int64_t n, int channels, const float* base, float* y,
                 const Parallel& parallel) {
  const std::int64_t block = std::max<std::int64_t>(1, 65536 / channels);
  parallel_for(parallel, static_cast<std::size_t>((n + block - 1) / block), [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * block, last = std::min(first + block, n);
    for (std::int64_t i = first; i < last; ++i) {
      float* out = y + i * channels;
      const float* row = index[i] < 0 ? nullptr : x + static_cast<std::int64_t>(index[i]) * channels;
      const float* under = base == nullptr ? nullptr : base + i * channels;
      if (row != nullptr && under != nullptr) {
        for (int c = 0; c < channels; ++c) out[c] = under[c] + row[c];
      } else if (row != nullptr || under != nullptr) {
        std::memcpy(out, row != nullptr ? row : under, sizeof(float) * channels);
      } else {
        std::memset(out, 0, sizeof(float) * channels);
      }
    }
  });
}

}  // namespace zerograsp
