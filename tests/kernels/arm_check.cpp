// Compiled for aarch64 and run in an emulator by test_arm.py, and for the host.
//
// The convolution kernels, which are written with vector types, are compared with plain loops. Octrees and the occlusion
// field are decisions on float32: they must come out the same on every machine, so their hashes are printed.
// The other kernels (points, growth, features, grasps, segmentation) and the ONNX Runtime nodes run as Arm code where
// arm_environment.py has made an Arm Python for their own tests.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/convolution.h"
#include "core/convolution_int8.h"
#include "core/half.h"
#include "core/occlusion.h"
#include "core/octree.h"
#include "core/training.h"

using namespace zerograsp;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

class Random {
 public:
  std::uint32_t bits() { return static_cast<std::uint32_t>((state_ = state_ * 6364136223846793005u + 1442695040888963407u) >> 33); }
  int below(int n) { return static_cast<int>(bits() % static_cast<std::uint32_t>(n)); }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() & 0xffffffu) / 16777216.0f; }
  Floats floats(std::size_t n, float size) {
    Floats v(n);
    for (float& x : v) x = uniform(-size, size);
    return v;
  }
  Ints table(std::size_t n, int rows, int percent_present) {
    Ints v(n);
    for (std::int32_t& i : v) i = below(100) < percent_present && rows > 0 ? below(rows) : -1;
    return v;
  }

 private:
  std::uint64_t state_ = 1;
} rng;

int failures = 0;

double activate(double x, Activation act) {
  switch (act) {
    case Activation::kGelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kElu: return x > 0 ? x : std::expm1(x);
    case Activation::kRelu: return x > 0 ? x : 0;
    default: return x;
  }
}

void compare(const char* name, const Floats& got, const std::vector<double>& expected) {
  double worst = got.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    const double error = std::abs(got[i] - expected[i]) / (1 + std::abs(expected[i]));
    worst = error <= worst ? worst : error;  // NaN counts as the worst
  }
  const bool right = worst < 2e-5;
  if (!right) ++failures;
  std::printf("%s %s: %zu values, largest error %.1e\n", right ? "ok" : "WRONG", name, got.size(), worst);
}

// Weights keep the outputs near 1.
struct Weight {
  int taps, cin, cout;
  Floats w, b;
  Weight(int t, int i, int o) : taps(t), cin(i), cout(o), w(rng.floats(std::size_t(t) * i * o, 1.7f / std::sqrt(float(t * i)))), b(rng.floats(o, 1)) {}
  PackedWeight packed() const { return PackedWeight(w.data(), b.data(), taps, cin, cout); }
  double at(int k, int i, int o) const { return w[(std::size_t(k) * cin + i) * cout + o]; }
};

// Row j of x (-1: missing) through tap k of w, added to y.
template <class T>
void add(std::vector<double>& y, std::size_t row, const std::vector<T>& x, std::int64_t j, const Weight& w, int k) {
  if (j < 0) return;
  for (int i = 0; i < w.cin; ++i)
    for (int o = 0; o < w.cout; ++o) y[row * w.cout + o] += double(x[j * w.cin + i]) * w.at(k, i, o);
}

template <class T>
std::vector<double> plain_conv(const std::vector<T>& x, const Ints& neighbours, std::size_t n, const Weight& w, Activation act) {
  std::vector<double> y(n * w.cout);
  for (std::size_t r = 0; r < n; ++r) {
    for (int o = 0; o < w.cout; ++o) y[r * w.cout + o] = w.b[o];
    for (int k = 0; k < w.taps; ++k) add(y, r, x, neighbours[k * n + r], w, k);
  }
  for (double& v : y) v = activate(v, act);
  return y;
}

Ints identity(std::size_t n) {
  Ints v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<std::int32_t>(i);
  return v;
}

void check_conv(int n, int cin, int cout, Activation act, const Parallel& parallel) {
  const Weight w(27, cin, cout);
  const Floats x = rng.floats(std::size_t(n) * cin, 2);
  const Ints neighbours = rng.table(std::size_t(27) * n, n, 40);
  Floats y(std::size_t(n) * cout);
  octree_conv(x.data(), neighbours.data(), n, w.packed(), act, y.data(), parallel);
  compare("octree_conv", y, plain_conv(x, neighbours, n, w, act));
}

void check_downsample(int n, int cin, int cout, Activation act, const Parallel& parallel) {
  const Weight w(8, cin, cout);
  const int split = n / 2;
  const Floats x = rng.floats(std::size_t(8) * split * cin, 2);
  const Ints children = rng.table(n, split, 50);
  Ints rows(std::size_t(8) * n);
  for (int k = 0; k < 8; ++k)
    for (int r = 0; r < n; ++r) rows[k * n + r] = children[r] < 0 ? -1 : 8 * children[r] + k;
  Floats y(std::size_t(n) * cout);
  const PackedWeight siblings(w.w.data(), w.b.data(), 1, 8 * cin, cout);
  octree_downsample(x.data(), children.data(), n, siblings, act, y.data(), parallel);
  compare("octree_downsample", y, plain_conv(x, rows, n, w, act));
}

void check_upsample(int split, int cin, int cout, Activation act, const Parallel& parallel) {
  const Weight w(8, cin, cout);
  const Floats x = rng.floats(std::size_t(split) * cin, 2), skip = rng.floats(std::size_t(20) * cout, 2);
  const Ints rows = rng.table(split, split, 100), index = rng.table(std::size_t(8) * split, 20, 50);
  Floats y(std::size_t(8) * split * cout);
  octree_upsample(x.data(), rows.data(), split, w.packed(), act, skip.data(), index.data(), y.data(), parallel);
  std::vector<double> expected(y.size());
  for (int r = 0; r < 8 * split; ++r) {
    add(expected, r, x, rows[r / 8], w, r % 8);
    for (int o = 0; o < cout; ++o) {
      double& v = expected[std::size_t(r) * cout + o];
      v = activate(v + w.b[o], act) + (index[r] < 0 ? 0.0f : skip[std::size_t(index[r]) * cout + o]);
    }
  }
  compare("octree_upsample", y, expected);
}

void check_residual(int n, int cin, int hidden, int cout, bool projected, const Parallel& parallel) {
  const Weight a(1, cin, hidden), c(27, hidden, hidden), b(1, hidden, cout), s(1, cin, cout);
  const Floats x = rng.floats(std::size_t(n) * cin, 2);
  const Ints neighbours = rng.table(std::size_t(27) * n, n, 40);
  const ResidualWeights weights{a.packed(), c.packed(), b.packed(),
                                projected ? PackedWeight(s.w.data(), nullptr, 1, cin, cout) : PackedWeight()};
  Floats y(std::size_t(n) * cout);
  Workspace workspace;
  octree_residual(x.data(), neighbours.data(), n, weights, y.data(), workspace, parallel);
  std::vector<double> inner = plain_conv(x, identity(n), n, a, Activation::kGelu);
  inner = plain_conv(inner, neighbours, n, c, Activation::kGelu);
  std::vector<double> expected = plain_conv(inner, identity(n), n, b, Activation::kNone);
  for (int r = 0; r < n; ++r) {
    if (projected) add(expected, r, x, r, s, 0);
    else
      for (int o = 0; o < cout; ++o) expected[std::size_t(r) * cout + o] += x[std::size_t(r) * cin + o];
  }
  for (double& v : expected) v = activate(v, Activation::kElu);
  compare("octree_residual", y, expected);
}

void check_weight_gradient(int n, int cin, int cout, const Parallel& parallel) {
  const Floats x = rng.floats(std::size_t(n) * cin, 1), dy = rng.floats(std::size_t(n) * cout, 1 / std::sqrt(float(n) + 1));
  const Ints neighbours = rng.table(std::size_t(27) * n, n, 40);
  Floats dw(std::size_t(27) * cin * cout);
  std::vector<double> expected(dw.size());
  for (int k = 0; k < 27; ++k)
    for (int r = 0; r < n; ++r) {
      const std::int32_t j = neighbours[std::size_t(k) * n + r];
      for (int i = 0; j >= 0 && i < cin; ++i)
        for (int o = 0; o < cout; ++o)
          expected[(std::size_t(k) * cin + i) * cout + o] += double(x[std::size_t(j) * cin + i]) * dy[std::size_t(r) * cout + o];
    }
  Workspace workspace;
  conv_weight_gradient(x.data(), cin, {neighbours.data(), n, 27}, dy.data(), n, cout, dw.data(), workspace, parallel);
  compare("octree_weight_gradient", dw, expected);
}

void check_normalise(int n, int channels, Activation act, const Parallel& parallel) {
  const Floats x = rng.floats(std::size_t(n) * channels, 2), weight = rng.floats(channels, 1), bias = rng.floats(channels, 1);
  Floats mean(channels), variance(channels), inverse(channels), y(x.size());
  Workspace workspace;
  batch_statistics(x.data(), n, channels, mean.data(), variance.data(), workspace, parallel);
  std::vector<double> expected(x.size());
  for (int c = 0; c < channels; ++c) {
    double m = 0, v = 0;
    for (int r = 0; r < n; ++r) m += x[std::size_t(r) * channels + c] / double(n);
    for (int r = 0; r < n; ++r) v += (x[std::size_t(r) * channels + c] - m) * (x[std::size_t(r) * channels + c] - m) / double(n);
    inverse[c] = 1 / std::sqrt(variance[c] + 1e-1f);
    for (int r = 0; r < n; ++r) {
      const std::size_t at = std::size_t(r) * channels + c;
      expected[at] = activate((x[at] - m) / std::sqrt(v + 1e-1f) * weight[c] + bias[c], act);
    }
  }
  normalise(x.data(), n, {channels, mean.data(), inverse.data(), weight.data(), bias.data(), act}, nullptr, y.data(), parallel);
  compare("octree_normalise", y, expected);
}

void check_mlp(int n, int cin, int hidden, int cout, const Parallel& parallel) {
  const Weight first(1, cin, hidden), second(1, hidden, cout);
  const Floats x = rng.floats(std::size_t(n) * cin, 2);
  Floats y(std::size_t(n) * cout);
  octree_mlp(x.data(), n, first.packed(), second.packed(), y.data(), parallel);
  const std::vector<double> inner = plain_conv(x, identity(n), n, first, Activation::kGelu);
  compare("octree_mlp", y, plain_conv(inner, identity(n), n, second, Activation::kNone));
}

void check_grid(int grids, int r, int cin, int cout, Activation act, const Parallel& parallel) {
  const Weight w(27, cin, cout);
  const int cells = r * r * r, n = grids * cells;
  const Floats x = rng.floats(std::size_t(n) * cin, 2), add_on = rng.floats(std::size_t(n) * cout, 1);
  Ints neighbours(std::size_t(27) * n, -1);
  for (int k = 0; k < 27; ++k)
    for (int i = 0; i < n; ++i) {
      const int cell = i % cells;
      const int at[3] = {cell / (r * r) + k / 9 - 1, cell / r % r + k / 3 % 3 - 1, cell % r + k % 3 - 1};
      if (*std::min_element(at, at + 3) >= 0 && *std::max_element(at, at + 3) < r)
        neighbours[std::size_t(k) * n + i] = i - cell + (at[0] * r + at[1]) * r + at[2];
    }
  Floats y(std::size_t(n) * cout);
  grid_conv(x.data(), grids, GridTable(r), w.packed(), act, add_on.data(), y.data(), parallel);
  std::vector<double> expected = plain_conv(x, neighbours, n, w, Activation::kNone);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = activate(expected[i] + add_on[i], act);
  compare("grid_conv", y, expected);
}

// FNV-1a
class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& v) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(v.data());
    for (std::size_t i = 0; i < v.size() * sizeof(T); ++i) value_ = (value_ ^ bytes[i]) * 1099511628211u;
  }
  void print(const char* name, std::size_t size) const {
    std::printf("hash %s: %zu values, %016llx\n", name, size, static_cast<unsigned long long>(value_));
  }

 private:
  std::uint64_t value_ = 14695981039346656037u;
};

// Points of a surface, as the camera sees it, and every table of their octree.
void hash_octree(const Parallel& parallel) {
  constexpr int kObjects = 3, kDepth = 8, kFull = 3;
  Floats points;
  Ints counts;
  for (int object = 0; object < kObjects; ++object) {
    const int count = object == 1 ? 0 : 1500;
    for (int i = 0; i < count; ++i) {
      const float u = rng.uniform(-0.5f, 0.5f), v = rng.uniform(-0.5f, 0.5f);
      for (float c : {u, v, 0.4f - u * u - 0.7f * v * v}) points.push_back(c);
    }
    counts.push_back(count);
  }
  OctreeBuild build;
  if (build.sort(parallel, points.data(), counts.data(), kObjects, kDepth, kFull) >= 0) ++failures;
  std::vector<std::vector<std::int64_t>> keys;
  std::vector<Ints> children, split;
  std::vector<std::int64_t*> key_rows;
  std::vector<std::int32_t*> child_rows, split_rows;
  for (int d = kFull; d <= kDepth; ++d) {
    keys.emplace_back(build.node_total(d));
    children.emplace_back(build.node_total(d));
    if (d < kDepth) split.emplace_back(27 * build.split_total(d));
  }
  for (auto& v : keys) key_rows.push_back(v.data());
  for (auto& v : children) child_rows.push_back(v.data());
  for (auto& v : split) split_rows.push_back(v.data());
  Ints voxel(points.size() / 3);
  build.write(parallel, key_rows.data(), child_rows.data(), split_rows.data(), voxel.data());
  Hash octree;
  for (auto& v : keys) octree.add(v);
  for (auto& v : children) octree.add(v);
  for (auto& v : split) octree.add(v);
  octree.add(voxel);
  octree.print("octree", keys.back().size());

  const std::int64_t parents = static_cast<std::int64_t>(split.back().size()) / 27;
  Ints neighbours(27 * 8 * parents);
  expand_neighbours(parallel, split.back().data(), parents, nullptr, neighbours.data());
  Hash expanded;
  expanded.add(neighbours);
  expanded.print("neighbours", neighbours.size());

  std::vector<std::int64_t> some;
  for (std::int64_t key : keys.back())
    if (rng.below(3) > 0) some.push_back(key);
  Ints rows(keys.back().size());
  align_keys(parallel, some.data(), static_cast<std::int64_t>(some.size()), keys.back().data(), static_cast<std::int64_t>(rows.size()), rows.data());
  Hash aligned;
  aligned.add(rows);
  aligned.print("align", rows.size());
}

void hash_occlusion(const Parallel& parallel) {
  constexpr int kWidth = 96, kHeight = 72, kNodes = 40, kResolution = 8;
  Floats depth(kWidth * kHeight), centres;
  Ints labels(depth.size()), object;
  for (int v = 0; v < kHeight; ++v)
    for (int u = 0; u < kWidth; ++u) {
      const std::size_t i = std::size_t(v) * kWidth + u;
      labels[i] = (u / 16 + v / 12) % 4 - 1;
      depth[i] = rng.below(20) == 0 ? 0.0f : 450 + 0.3f * u - 0.2f * v + rng.uniform(-5, 5);
    }
  for (int i = 0; i < kNodes; ++i) {
    const float z = rng.uniform(350, 600);
    for (float c : {z * rng.uniform(-0.4f, 0.4f), z * rng.uniform(-0.3f, 0.3f), z}) centres.push_back(c);
    object.push_back(rng.below(3));
  }
  const std::vector<std::uint8_t> adjacency = {0, 1, 0, 1, 0, 1, 0, 1, 0};
  OcclusionInput input{};
  input.centres = centres.data();
  input.object = object.data();
  input.nodes = kNodes;
  input.depth = depth.data();
  input.labels = labels.data();
  input.height = kHeight;
  input.width = kWidth;
  input.adjacency = adjacency.data();
  input.objects = 3;
  input.fx = 100.5f;
  input.fy = 99.25f;
  input.cx = 47.3f;
  input.cy = 36.1f;
  input.edge = 80;
  input.resolution = kResolution;
  Floats flags(std::size_t(kNodes) * 2 * kResolution * kResolution * kResolution);
  OcclusionWorkspace workspace;
  if (occlusion_field(input, flags.data(), workspace, parallel) != OcclusionError::none) ++failures;
  const auto set = std::count(flags.begin(), flags.end(), 1.0f);
  if (set == 0 || set == static_cast<std::ptrdiff_t>(flags.size())) ++failures;  // nothing was decided
  Hash hash;
  hash.add(flags);
  hash.print("occlusion", flags.size());
}

// Integers are summed exactly, and scales are powers of two: the same everywhere.
void hash_int8(const Parallel& parallel) {
  const int n = 400, cin = 21, cout = 33;
  std::vector<std::int8_t> weight(std::size_t(cout) * 27 * cin);
  for (auto& w : weight) w = static_cast<std::int8_t>(rng.below(255) - 127);
  const Floats scale(cout, 1.0f / 1024), bias(cout, 0.5f), x = rng.floats(std::size_t(n) * cin, 3);
  const Ints neighbours = rng.table(std::size_t(27) * n, n, 60);
  const PackedInt8 packed(weight.data(), scale.data(), bias.data(), 27, cin, cout, 1.0f / 64);
  Int8Workspace workspace;
  Floats y(std::size_t(n) * cout), plain(y.size(), 0.5f);
  octree_conv_int8(x.data(), n, neighbours.data(), n, packed, Activation::kNone, y.data(), workspace, parallel);
  for (int r = 0; r < n; ++r)
    for (int k = 0; k < 27; ++k) {
      const std::int32_t j = neighbours[std::size_t(k) * n + r];
      for (int o = 0; j >= 0 && o < cout; ++o) {
        std::int32_t sum = 0;
        for (int i = 0; i < cin; ++i) {
          const float q = std::nearbyint(std::min(std::max(x[std::size_t(j) * cin + i] * 64, -127.0f), 127.0f));
          sum += static_cast<std::int32_t>(q) * weight[(std::size_t(o) * 27 + k) * cin + i];
        }
        plain[std::size_t(r) * cout + o] += static_cast<float>(sum) / 65536;
      }
    }
  for (std::size_t i = 0; i < y.size(); ++i) failures += y[i] != plain[i];
  Hash hash;
  hash.add(y);
  hash.print("int8", y.size());
}

// Every half, and floats around the middle of two.
void hash_half(const Parallel& parallel) {
  std::vector<Half> halves(65536), back;
  for (int i = 0; i < 65536; ++i) halves[i].bits = static_cast<std::uint16_t>(i);
  halves.erase(std::remove_if(halves.begin(), halves.end(), [](Half h) { return (h.bits & 0x7fff) > 0x7c00; }), halves.end());
  Floats wide(halves.size());
  widen(halves.data(), wide.data(), static_cast<std::int64_t>(wide.size()), parallel);
  Floats plain;
  for (Half h : halves) plain.push_back(widen(h));
  for (std::size_t i = 0; i < wide.size(); ++i) failures += std::memcmp(&wide[i], [&] { static float f; f = widen(halves[i]); return &f; }(), 4) != 0;
  for (std::size_t i = 0; i + 1 < halves.size(); i += 3) wide.push_back(0.5f * (wide[i] + wide[i + 1]));
  for (float f : rng.floats(5000, 70000)) wide.push_back(f);
  back.resize(wide.size());
  narrow(wide.data(), back.data(), static_cast<std::int64_t>(wide.size()), parallel);
  Floats rounded;
  for (std::size_t i = 0; i < back.size(); ++i) {
    if (std::isnan(wide[i])) continue;
    failures += back[i].bits != narrow(wide[i]).bits;
    rounded.push_back(static_cast<float>(back[i].bits));
  }
  Hash hash;
  hash.add(rounded);
  hash.print("half", rounded.size());
}

}  // namespace

int main() {
  std::printf("instruction set %s\n", convolution_isa());
  const Activation acts[] = {Activation::kNone, Activation::kGelu, Activation::kElu, Activation::kRelu};
  const int channels[][2] = {{1, 1}, {2, 16}, {12, 12}, {24, 24}, {13, 33}, {48, 48}, {5, 70}, {32, 2}};
  for (int threads : {1, 2}) {
    const Parallel parallel = openmp(threads);
    int i = 0;
    for (const auto& c : channels)
      for (int n : {1, 150}) {
        const Activation act = acts[i++ % 4];
        check_conv(n, c[0], c[1], act, parallel);
        check_downsample(n, c[0], c[1], acts[i % 4], parallel);
        check_upsample(n / 4 + 1, c[0], c[1], acts[(i + 1) % 4], parallel);
        check_residual(n, c[0], c[1], c[1] + 3, true, parallel);
        check_residual(n, c[0], c[1], c[0], false, parallel);
        check_mlp(n, c[0], 2 * c[1], c[1], parallel);
        check_weight_gradient(n, c[0], c[1], parallel);
        check_normalise(n, c[1], act, parallel);
      }
    for (int r : {1, 2, 4, 8}) check_grid(r == 8 ? 1 : 150 / (r * r * r), r, 5, 16, acts[(r + 1) % 4], parallel);
  }
  const Parallel parallel = openmp(2);
  hash_octree(parallel);
  hash_occlusion(parallel);
  hash_int8(parallel);
  hash_half(parallel);
  std::printf(failures == 0 ? "all right\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
