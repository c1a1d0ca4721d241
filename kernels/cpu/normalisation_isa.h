// Batch normalisation with residual sum and activation; included by training_isa.cpp, once per instruction set.
//
// The matrix is read as a flat array. Its columns repeat against the vector lanes every lcm(channels, lanes) floats, so
// per-column factors are laid out over one such cycle and no width needs a scalar loop.
#pragma once
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/training.h"
#include "cpu/simd.h"

namespace zerograsp {
namespace {

constexpr std::int64_t kNormBlock = 4096;  // floats of a block, about: it is read twice and stays in the first-level cache

// Derivative of the activation at z.
template <Activation A>
inline Vec slope(Vec z) {
  if constexpr (A == Activation::kGelu) {  // Phi(z) + z phi(z)
    const Vec c = maximum(splat(-gelu_fit::kLimit), minimum(z, splat(gelu_fit::kLimit)));
    const Vec t = c * c;
    Vec p = splat(gelu_fit::kP[5]), q = splat(gelu_fit::kQ[5]);
    for (int i = 4; i >= 0; --i) {
      p = p * t + splat(gelu_fit::kP[i]);
      q = q * t + splat(gelu_fit::kQ[i]);
    }
    return splat(0.5f) + c * p / q + c * splat(0.398942280f) * exp_negative(splat(-0.5f) * t);
  }
  if constexpr (A == Activation::kElu) return select(z <= splat(0.0f), exp_negative(minimum(z, splat(0.0f))), splat(1.0f));
  if constexpr (A == Activation::kRelu) return select(z > splat(0.0f), splat(1.0f), splat(0.0f));
  return splat(1.0f);
}

// How the flat array is cut.
struct Layout {
  Layout(std::int64_t n, int channels_)
      : channels(channels_), cycle(std::lcm(channels_, kLanes)), total(n * channels_),
        block(std::max<std::int64_t>(1, kNormBlock / cycle) * cycle), blocks((total + block - 1) / block) {}
  int channels, cycle;
  std::int64_t total, block, blocks;  // floats; a block is a whole number of cycles

  std::vector<float> over_cycle(const float* per_channel) const {
    std::vector<float> v(cycle);
    for (int i = 0; i < cycle; ++i) v[i] = per_channel[i % channels];
    return v;
  }
};

// Calls body(position, place in the cycle) for every whole vector of a block, then tail(position, place, count).
template <class Body, class Tail>
inline void for_vectors(const Layout& layout, std::int64_t block, Body&& body, Tail&& tail) {
  std::int64_t at = block * layout.block;
  const std::int64_t end = std::min(at + layout.block, layout.total);
  for (; at + layout.cycle <= end; at += layout.cycle)
    for (int place = 0; place < layout.cycle; place += kLanes) body(at + place, place);
  for (int place = 0; at < end; at += kLanes, place += kLanes) {
    if (at + kLanes <= end) body(at, place);
    else tail(at, place, static_cast<int>(end - at));
  }
}

inline Vec load_part(const float* p, int count) {
  float v[kLanes] = {};
  std::memcpy(v, p, sizeof(float) * count);
  return load(v);
}
inline void store_part(float* p, Vec value, int count) { std::memcpy(p, &value, sizeof(float) * count); }

void statistics(const float* x, std::int64_t n, int channels, float* mean, float* variance, Workspace& workspace,
                const Parallel& parallel) {
  const Layout layout(n, channels);
  float* partial = workspace.floats(static_cast<std::size_t>(layout.blocks) * 2 * channels);
  parallel_for(parallel, static_cast<std::size_t>(layout.blocks), [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * layout.block;
    const std::int64_t rows = (std::min(first + layout.block, layout.total) - first) / channels;
    std::vector<float> sum(layout.cycle), centre(layout.cycle), square(layout.cycle);
    for_vectors(
        layout, static_cast<std::int64_t>(b),
        [&](std::int64_t at, int place) { store(&sum[place], load(&sum[place]) + load(x + at)); },
        [&](std::int64_t at, int place, int count) {
          for (int i = 0; i < count; ++i) sum[place + i] += x[at + i];
        });
    float* block_mean = partial + 2 * b * channels;
    float* block_square = block_mean + channels;
    for (int c = 0; c < channels; ++c) {
      double s = 0;
      for (int i = c; i < layout.cycle; i += channels) s += sum[i];
      block_mean[c] = static_cast<float>(s / static_cast<double>(rows));
    }
    for (int i = 0; i < layout.cycle; ++i) centre[i] = block_mean[i % channels];
    for_vectors(
        layout, static_cast<std::int64_t>(b),
        [&](std::int64_t at, int place) {
          const Vec d = load(x + at) - load(&centre[place]);
          store(&square[place], load(&square[place]) + d * d);
        },
        [&](std::int64_t at, int place, int count) {
          for (int i = 0; i < count; ++i) square[place + i] += (x[at + i] - centre[place + i]) * (x[at + i] - centre[place + i]);
        });
    for (int c = 0; c < channels; ++c) {
      double s = 0;
      for (int i = c; i < layout.cycle; i += channels) s += square[i];
      block_square[c] = static_cast<float>(s);
    }
  });

  std::vector<double> merged_mean(channels), merged_square(channels);
  double count = 0;
  for (std::int64_t b = 0; b < layout.blocks; ++b) {
    const std::int64_t first = b * layout.block;
    const double rows = static_cast<double>((std::min(first + layout.block, layout.total) - first) / channels);
    const float* block_mean = partial + 2 * b * channels;
    const double share = rows / (count + rows);
    for (int c = 0; c < channels; ++c) {
      const double d = block_mean[c] - merged_mean[c];
      merged_mean[c] += d * share;
      merged_square[c] += block_mean[channels + c] + d * d * count * share;
    }
    count += rows;
  }
  for (int c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(merged_mean[c]);
    variance[c] = static_cast<float>(merged_square[c] / count);
  }
}

// Per-column factors over one cycle: (x - mean) * scale + bias. The mean comes off first: it may be large beside the deviation.
struct Factors {
  Factors(const Layout& layout, const Normalisation& norm)
      : mean(layout.over_cycle(norm.mean)), scale(layout.over_cycle(norm.weight)), bias(layout.over_cycle(norm.bias)) {
    for (int i = 0; i < layout.cycle; ++i) scale[i] *= norm.inverse_deviation[i % layout.channels];
  }
  std::vector<float> mean, scale, bias;
};

template <Activation A>
void forward_as(const float* x, std::int64_t n, const Normalisation& norm, const float* residual, float* y,
                const Parallel& parallel) {
  const Layout layout(n, norm.channels);
  const Factors f(layout, norm);
  const float *mean = f.mean.data(), *scale = f.scale.data(), *bias = f.bias.data();
  parallel_for(parallel, static_cast<std::size_t>(layout.blocks), [&](std::size_t b) {
    for_vectors(
        layout, static_cast<std::int64_t>(b),
        [&](std::int64_t at, int place) {
          Vec z = (load(x + at) - load(mean + place)) * load(scale + place) + load(bias + place);
          if (residual != nullptr) z += load(residual + at);
          store(y + at, activate<A>(z));
        },
        [&](std::int64_t at, int place, int count) {
          Vec z = (load_part(x + at, count) - load(mean + place)) * load(scale + place) + load(bias + place);
          if (residual != nullptr) z += load_part(residual + at, count);
          store_part(y + at, activate<A>(z), count);
        });
  });
}

template <Activation A>
void backward_as(const float* dy, const float* x, std::int64_t n, const Normalisation& norm, const float* residual,
                 float* dx, float* dweight, float* dbias, float* dresidual, Workspace& workspace,
                 const Parallel& parallel) {
  const Layout layout(n, norm.channels);
  const int channels = norm.channels;
  const Factors f(layout, norm);
  const float *mean = f.mean.data(), *scale = f.scale.data(), *bias = f.bias.data();
  const std::vector<float> inverse = layout.over_cycle(norm.inverse_deviation);
  float* g = residual != nullptr ? dresidual : dx;  // the gradient before the normalisation
  float* partial = workspace.floats(static_cast<std::size_t>(layout.blocks) * 2 * channels);

  parallel_for(parallel, static_cast<std::size_t>(layout.blocks), [&](std::size_t b) {
    std::vector<float> sum(layout.cycle), product(layout.cycle);
    for_vectors(
        layout, static_cast<std::int64_t>(b),
        [&](std::int64_t at, int place) {
          const Vec centred = load(x + at) - load(mean + place);
          Vec z = centred * load(scale + place) + load(bias + place);
          if (residual != nullptr) z += load(residual + at);
          const Vec d = load(dy + at) * slope<A>(z);
          store(g + at, d);
          store(&sum[place], load(&sum[place]) + d);
          store(&product[place], load(&product[place]) + d * centred);
        },
        [&](std::int64_t at, int place, int count) {
          const Vec centred = load_part(x + at, count) - load(mean + place);
          Vec z = centred * load(scale + place) + load(bias + place);
          if (residual != nullptr) z += load_part(residual + at, count);
          const Vec d = load_part(dy + at, count) * slope<A>(z);  // 0 beyond the end
          store_part(g + at, d, count);
          store(&sum[place], load(&sum[place]) + d);
          store(&product[place], load(&product[place]) + d * centred);
        });
    float* out = partial + 2 * b * channels;
    for (int c = 0; c < channels; ++c) {
      double s = 0, p = 0;
      for (int i = c; i < layout.cycle; i += channels) s += sum[i], p += product[i];
      out[c] = static_cast<float>(s);
      out[channels + c] = static_cast<float>(p * norm.inverse_deviation[c]);
    }
  });

  std::vector<double> sums(2 * static_cast<std::size_t>(channels));
  for (std::int64_t b = 0; b < layout.blocks; ++b)
    for (int i = 0; i < 2 * channels; ++i) sums[i] += partial[2 * b * channels + i];
  // dx = scale * (g - mean(g) - xhat * mean(g * xhat)) = scale * g + (x - mean) * slope + offset
  std::vector<float> offset(layout.cycle), tilt(layout.cycle);
  for (int i = 0; i < layout.cycle; ++i) {
    const int c = i % channels;
    offset[i] = static_cast<float>(-scale[i] * sums[c] / static_cast<double>(n));
    tilt[i] = static_cast<float>(-scale[i] * inverse[i] * sums[channels + c] / static_cast<double>(n));
  }
  for (int c = 0; c < channels; ++c) {
    dbias[c] = static_cast<float>(sums[c]);
    dweight[c] = static_cast<float>(sums[channels + c]);
  }
  parallel_for(parallel, static_cast<std::size_t>(layout.blocks), [&](std::size_t b) {
    for_vectors(
        layout, static_cast<std::int64_t>(b),
        [&](std::int64_t at, int place) {
          store(dx + at, load(g + at) * load(scale + place) + (load(x + at) - load(mean + place)) * load(&tilt[place]) +
                             load(&offset[place]));
        },
        [&](std::int64_t at, int place, int count) {
          const Vec centred = load_part(x + at, count) - load(mean + place);
          store_part(dx + at, load_part(g + at, count) * load(scale + place) + centred * load(&tilt[place]) + load(&offset[place]),
                     count);
        });
  });
}

void forward(const float* x, std::int64_t n, const Normalisation& norm, const float* residual, float* y,
             const Parallel& parallel) {
  switch (norm.activation) {
    case Activation::kNone: return forward_as<Activation::kNone>(x, n, norm, residual, y, parallel);
    case Activation::kGelu: return forward_as<Activation::kGelu>(x, n, norm, residual, y, parallel);
    case Activation::kElu: return forward_as<Activation::kElu>(x, n, norm, residual, y, parallel);
    case Activation::kRelu: return forward_as<Activation::kRelu>(x, n, norm, residual, y, parallel);
  }
}

void backward(const float* dy, const float* x, std::int64_t n, const Normalisation& norm, const float* residual, float* dx,
              float* dweight, float* dbias, float* dresidual, Workspace& workspace, const Parallel& parallel) {
  switch (norm.activation) {
    case Activation::kNone:
      return backward_as<Activation::kNone>(dy, x, n, norm, residual, dx, dweight, dbias, dresidual, workspace, parallel);
    case Activation::kGelu:
      return backward_as<Activation::kGelu>(dy, x, n, norm, residual, dx, dweight, dbias, dresidual, workspace, parallel);
    case Activation::kElu:
      return backward_as<Activation::kElu>(dy, x, n, norm, residual, dx, dweight, dbias, dresidual, workspace, parallel);
    case Activation::kRelu:
      return backward_as<Activation::kRelu>(dy, x, n, norm, residual, dx, dweight, dbias, dresidual, workspace, parallel);
  }
}

}  // namespace
}  // namespace zerograsp
