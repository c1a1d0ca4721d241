// Weight packing, scratch, and the choice of instruction set.
#include "core/convolution.h"

#include <atomic>
#include <cstring>
#include <string>

#include "cpu/convolution_isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace zerograsp {
namespace {

constexpr std::size_t kAlignFloats = 16;  // 64 bytes

float* align(std::vector<float>& storage, std::size_t count) {
  if (storage.size() < count + kAlignFloats) storage.resize(count + kAlignFloats);
  const auto address = reinterpret_cast<std::uintptr_t>(storage.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

bool supported(const ConvolutionKernels& kernels) {
#if defined(__x86_64__)
  if (std::strcmp(kernels.name, "avx2") == 0) {
    // GCC before 11 knows no name for F16C.
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  }
#endif
  (void)kernels;
  return true;
}

const ConvolutionKernels* find(const char* name) {
#ifdef ZG_HAVE_ISA_avx2
  const ConvolutionKernels& avx2 = convolution_kernels_avx2();
  if (supported(avx2) && (name == nullptr || std::strcmp(name, avx2.name) == 0)) return &avx2;
#endif
  const ConvolutionKernels& baseline = convolution_kernels_baseline();
  if (name == nullptr || std::strcmp(name, baseline.name) == 0) return &baseline;
  return nullptr;
}

std::atomic<const ConvolutionKernels*> chosen{nullptr};

const ConvolutionKernels& kernels() {
  const ConvolutionKernels* k = chosen.load(std::memory_order_acquire);
  if (k == nullptr) {
    k = find(nullptr);
    chosen.store(k, std::memory_order_release);
  }
  return *k;
}

}  // namespace

PackedWeight::PackedWeight(const float* weight, const float* bias, int taps_, int cin_, int cout_)
    : taps(taps_), cin(cin_), cout(cout_) {
  // Widths: as many 24s as fit, the rest in 16s and one 8; 24 x 4 rows and 16 x 6 rows both keep 12 accumulators busy.
  int left = (cout + 7) / 8 * 8;
  while (left > 0) {
    int width = 24;
    if (left < 24 || left == 32) width = left >= 16 ? 16 : 8;
    panels.push_back(width);
    left -= width;
    cout_padded += width;
  }
  const std::size_t size = static_cast<std::size_t>(taps) * cin * cout_padded;
  aligned_ = align(storage_, size + cout_padded);
  float* out = aligned_;
  for (int k = 0; k < taps; ++k) {
    int first = 0;
    for (int width : panels) {
      for (int i = 0; i < cin; ++i) {
        const float* row = weight + (static_cast<std::size_t>(k) * cin + i) * cout;
        for (int j = 0; j < width; ++j) *out++ = first + j < cout ? row[first + j] : 0.0f;
      }
      first += width;
    }
  }
  for (int j = 0; j < cout_padded; ++j) *out++ = (bias != nullptr && j < cout) ? bias[j] : 0.0f;
}

PackedWeight PackedWeight::mirrored(const float* weight, int taps, int cin, int cout) {
  const std::size_t size = static_cast<std::size_t>(cin) * cout;
  std::vector<float> turned(size * taps);
  for (int k = 0; k < taps; ++k) {
    const float* from = weight + size * (taps - 1 - k);
    float* to = turned.data() + size * k;
    for (int j = 0; j < cout; ++j)
      for (int i = 0; i < cin; ++i) *to++ = from[static_cast<std::size_t>(i) * cout + j];
  }
  return PackedWeight(turned.data(), nullptr, taps, cout, cin);
}

float* Workspace::floats(std::size_t count) { return align(storage_, count); }

void octree_conv(const float* x, const std::int32_t* neighbours, std::int64_t n, const PackedWeight& w, Activation act,
                 float* y, const Parallel& parallel) {
  kernels().conv(x, neighbours, n, w, act, y, parallel);
}

void octree_downsample(const float* x, const std::int32_t* children, std::int64_t n, const PackedWeight& w,
                       Activation act, float* y, const Parallel& parallel) {
  kernels().downsample(x, children, n, w, act, y, parallel);
}

void octree_upsample(const float* x, const std::int32_t* rows, std::int64_t s, const PackedWeight& w, Activation act,
                     const float* skip, const std::int32_t* skip_index, float* y, const Parallel& parallel) {
  kernels().upsample(x, rows, s, w, act, skip, skip_index, y, parallel);
}

void octree_residual(const float* x, const std::int32_t* neighbours, std::int64_t n, const ResidualWeights& w, float* y,
                     Workspace& workspace, const Parallel& parallel) {
  kernels().residual(x, neighbours, n, w, y, workspace, parallel);
}

void octree_linear(const float* x, std::int64_t n, const PackedWeight& w, Activation act, float* y, const Parallel& parallel) {
  kernels().linear(x, n, w, act, y, parallel);
}

void octree_mlp(const float* x, std::int64_t n, const PackedWeight& w1, const PackedWeight& w2, float* y,
                const Parallel& parallel) {
  kernels().mlp(x, n, w1, w2, y, parallel);
}

GridTable::GridTable(int r) : resolution(r) {
  const int cells = r * r * r;
  const int grids = cells >= 128 ? 1 : 128 / cells;
  rows = grids * cells;
  neighbours.assign(static_cast<std::size_t>(27) * rows, -1);
  for (int tap = 0; tap < 27; ++tap) {
    const int dx = tap / 9 - 1, dy = tap / 3 % 3 - 1, dz = tap % 3 - 1;
    for (int row = 0; row < rows; ++row) {
      const int cell = row % cells, first = row - cell;
      const int x = cell / (r * r) + dx, y = cell / r % r + dy, z = cell % r + dz;
      const bool inside = x >= 0 && x < r && y >= 0 && y < r && z >= 0 && z < r;
      if (inside) neighbours[static_cast<std::size_t>(tap) * rows + row] = first + (x * r + y) * r + z;
    }
  }
}

void grid_conv(const float* x, std::int64_t n, const GridTable& grid, const PackedWeight& w, Activation act,
               const float* residual, float* y, const Parallel& parallel) {
  kernels().grid(x, n, grid, w, act, residual, y, parallel);
}

void widen(const Half* from, float* to, std::int64_t count, const Parallel& parallel) {
  kernels().widen(from, to, count, parallel);
}

void narrow(const float* from, Half* to, std::int64_t count, const Parallel& parallel) {
  kernels().narrow(from, to, count, parallel);
}

const char* convolution_isa() { return kernels().name; }

bool set_convolution_isa(const char* name) {
  const ConvolutionKernels* k = find(name);
  if (k == nullptr) return false;
  chosen.store(k, std::memory_order_release);
  return true;
}

}  // namespace zerograsp
