// Features of the finest non-empty voxels: where the averaged point lies in its voxel, and the average of the image features
// sampled at its points.
//
// Points are sorted by voxel: counted, summed, scattered with integer atomics; then one thread per voxel puts its few points
// into their own order again, so that float sums do not depend on the atomics. Image features are planes: a thread samples
// eight of them for one voxel, and as neighbouring threads have neighbouring voxels, they read neighbouring pixels.
//
// Positions in the image are float32 decisions of the published network: compile with --fmad=false.
#include "cuda/element.h"
#include "cuda/error.h"
#include "cuda/prefix.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256, kSampleThreads = 128;
constexpr int kPlanes = 8;              // channels of a thread
constexpr int kMaxInsertions = 32;      // points of a voxel that are sorted by insertion; more: by a heap
constexpr std::int32_t kMaxChannels = 4096;
constexpr std::size_t kAlignment = 256;

struct VoxelPoints {
  const float* points;         // (n, 3) normalised
  const std::int32_t* voxel;   // (n), -1: lost
  Extent n, voxels;
  std::int32_t* first;         // (voxels + 1) once all are counted: where a voxel's points begin in `order`
  std::int32_t* order;         // (n) points by voxel
};

template <class T>
struct FeatureMap {
  const T* planes;  // (channels, padded_height, padded_width)
  int channels, padded_height, padded_width;
  int height, width;       // of the image
  const float* intrinsics;  // (3, 3) K, row-major
  const float* z_min;      // mm
  float half_extent;       // mm
};

__global__ void __launch_bounds__(kThreads) count_kernel(const VoxelPoints p, std::int32_t* status) {
  const std::int64_t i = global_thread();
  if (i >= p.n.size()) return;
  const std::int32_t v = p.voxel[i];
  if (v >= 0 && v < p.voxels.size())
    atomicAdd(p.first + 1 + v, 1);
  else if (v != -1 && status != nullptr)
    atomicOr(status, static_cast<std::int32_t>(kZgVoxelOutOfRange));
}

// Every entry but the first moves to its voxel's end, which is where the next one begins.
__global__ void __launch_bounds__(kThreads) scatter_kernel(const VoxelPoints p) {
  const std::int64_t i = global_thread();
  if (i >= p.n.size()) return;
  const std::int32_t v = p.voxel[i];
  if (v >= 0 && v < p.voxels.size()) p.order[atomicAdd(p.first + 1 + v, 1)] = static_cast<std::int32_t>(i);
}

__device__ __forceinline__ void sift_down(std::int32_t* heap, std::int32_t at, std::int32_t count) {
  const std::int32_t value = heap[at];
  for (std::int32_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
    if (child + 1 < count && heap[child + 1] > heap[child]) ++child;
    if (heap[child] <= value) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = value;
}

__device__ __forceinline__ void sort_ascending(std::int32_t* values, std::int32_t count) {
  if (count <= kMaxInsertions) {
    for (std::int32_t i = 1; i < count; ++i) {
      const std::int32_t value = values[i];
      std::int32_t at = i;
      for (; at > 0 && values[at - 1] > value; --at) values[at] = values[at - 1];
      values[at] = value;
    }
    return;
  }
  for (std::int32_t at = count / 2 - 1; at >= 0; --at) sift_down(values, at, count);
  for (std::int32_t last = count - 1; last > 0; --last) {
    const std::int32_t largest = values[0];
    values[0] = values[last];
    values[last] = largest;
    sift_down(values, 0, last);
  }
}

// One thread per voxel: order of its points, and the local offset of their mean.
template <class Out>
__global__ void __launch_bounds__(kThreads)
    offset_kernel(const VoxelPoints p, float half_cells, std::int64_t row_length, Out* features, std::int32_t* status) {
  const std::int64_t v = global_thread();
  if (v >= p.voxels.size()) return;
  const std::int32_t begin = p.first[v], count = p.first[v + 1] - begin;
  sort_ascending(p.order + begin, count);
  if (count == 0 && status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgVoxelOutOfRange));
  float sum[3] = {0.0f, 0.0f, 0.0f};
  for (std::int32_t k = 0; k < count; ++k) {
    const float* at = p.points + 3 * static_cast<std::int64_t>(p.order[begin + k]);
    for (int axis = 0; axis < 3; ++axis) sum[axis] += (at[axis] + 1.0f) * half_cells;
  }
  for (int axis = 0; axis < 3; ++axis) {
    const float mean = count > 0 ? sum[axis] / static_cast<float>(count) : 0.5f;
    convert((mean - truncf(mean)) - 0.5f, features + v * row_length + axis);
  }
}

// Where a point samples the map, in pixels.
template <class T>
__device__ __forceinline__ void project(const FeatureMap<T>& map, const float* point, float* column, float* row) {
  const float *k = map.intrinsics, half = map.half_extent;
  const float w = static_cast<float>(map.width), h = static_cast<float>(map.height);
  const float x = point[0] * half, y = point[1] * half, z = (point[2] * 0.5f + 0.5f) * (2.0f * half) + *map.z_min;
  const float scale = (k[6] * x + k[7] * y + k[8] * z) + 1e-4f;
  const float u = 2.0f * ((k[0] * x + k[1] * y + k[2] * z) / scale / w - 0.5f);
  const float v = 2.0f * ((k[3] * x + k[4] * y + k[5] * z) / scale / h - 0.5f);
  *column = (u + 1.0f) * 0.5f * (w - 1.0f);  // align_corners
  *row = (v + 1.0f) * 0.5f * (h - 1.0f);
}

// Block b: kPlanes channels b / voxel_blocks, voxels of block b % voxel_blocks.
template <class T, class Out>
__global__ void __launch_bounds__(kSampleThreads)
    sample_kernel(const VoxelPoints p, const FeatureMap<T> map, std::int32_t voxel_blocks, Out* features) {
  const int block = static_cast<int>(blockIdx.x);
  const std::int64_t v = static_cast<std::int64_t>(block % voxel_blocks) * kSampleThreads + threadIdx.x;
  if (v >= p.voxels.size()) return;
  const int channel = block / voxel_blocks * kPlanes;
  const int lanes = map.channels - channel < kPlanes ? map.channels - channel : kPlanes;
  const std::int64_t plane = static_cast<std::int64_t>(map.padded_height) * map.padded_width;
  const T* planes = map.planes + channel * plane;
  const std::int32_t begin = p.first[v], count = p.first[v + 1] - begin;
  float sum[kPlanes];
  ZG_UNROLL
  for (int c = 0; c < kPlanes; ++c) sum[c] = 0.0f;
  for (std::int32_t k = 0; k < count; ++k) {
    float column, row, sample[kPlanes];
    project(map, p.points + 3 * static_cast<std::int64_t>(p.order[begin + k]), &column, &row);
    ZG_UNROLL
    for (int c = 0; c < kPlanes; ++c) sample[c] = 0.0f;
    const float left = floorf(column), top = floorf(row);
    ZG_UNROLL
    for (int corner = 0; corner < 4; ++corner) {
      const float x = left + static_cast<float>(corner % 2), y = top + static_cast<float>(corner / 2);
      // Zero padding; NaN is inside nowhere.
      if (!(x >= 0.0f && x < static_cast<float>(map.width) && y >= 0.0f && y < static_cast<float>(map.height))) continue;
      const float weight = (1.0f - fabsf(column - x)) * (1.0f - fabsf(row - y));
      const T* pixel = planes + static_cast<std::int64_t>(static_cast<int>(y)) * map.padded_width + static_cast<int>(x);
      ZG_UNROLL
      for (int c = 0; c < kPlanes; ++c)
        if (c < lanes) sample[c] += weight * to_float(pixel[c * plane]);
    }
    ZG_UNROLL
    for (int c = 0; c < kPlanes; ++c) sum[c] += sample[c];
  }
  Out* to = features + v * (3 + map.channels) + 3 + channel;
  ZG_UNROLL
  for (int c = 0; c < kPlanes; ++c)
    if (c < lanes) convert(count > 0 ? sum[c] / static_cast<float>(count) : 0.0f, to + c);
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::size_t first_bytes(std::int64_t voxels) { return aligned(sizeof(std::int32_t) * (static_cast<std::size_t>(voxels) + 1)); }

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

size_t zg_cuda_voxel_features_workspace(int64_t points, int64_t voxels) {
  if (points < 0 || voxels < 0) return 0;
  return first_bytes(voxels) + aligned(prefix_bytes(voxels)) + aligned(sizeof(std::int32_t) * static_cast<std::size_t>(points));
}

int zg_cuda_voxel_features(int32_t image_type, const void* image_features, int32_t channels, int32_t padded_height,
                           int32_t padded_width, const float* points, const int32_t* voxel, int64_t n, const int32_t* n_count,
                           int64_t voxels, const int32_t* voxels_count, const float* intrinsics, const float* z_min,
                           float half_extent, int32_t height, int32_t width, int32_t depth, int32_t type, void* features,
                           int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("channels", channels, 0, kMaxChannels));
  ZG_TRY(expect_size("points", n, 0, kMaxRows));
  ZG_TRY(expect_size("voxels", voxels, 0, kMaxRows / kMaxChannels * kSampleThreads));
  ZG_TRY(expect_size("depth", depth, 1, 10));
  if (channels > 0) {
    ZG_TRY(expect_size("height", height, 1, 1 << 14));
    ZG_TRY(expect_size("width", width, 1, 1 << 14));
    ZG_TRY(expect_size("padded_height", padded_height, height, 1 << 14));
    ZG_TRY(expect_size("padded_width", padded_width, width, 1 << 14));
    if (!(half_extent > 0.0f)) return invalid("half_extent: expected a length in mm, got %g", static_cast<double>(half_extent));
    ZG_TRY(expect_pointer("image_features", image_features, true));
    ZG_TRY(expect_pointer("intrinsics", intrinsics, true));
    ZG_TRY(expect_pointer("z_min", z_min, true));
  }
  ZG_TRY(expect_pointer("points", points, n > 0));
  ZG_TRY(expect_pointer("voxel", voxel, n > 0));
  ZG_TRY(expect_pointer("features", features, voxels > 0));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_voxel_features_workspace(n, voxels)));
  char* scratch = static_cast<char*>(workspace);
  auto* first = reinterpret_cast<std::int32_t*>(scratch);
  auto* sums = reinterpret_cast<std::int32_t*>(scratch + first_bytes(voxels));
  auto* order = reinterpret_cast<std::int32_t*>(scratch + first_bytes(voxels) + aligned(prefix_bytes(voxels)));
  const VoxelPoints p = {points, voxel, {n, n_count}, {voxels, voxels_count}, first, order};
  const std::int64_t point_blocks = blocks_for(n, kThreads), sample_blocks = blocks_for(voxels, kSampleThreads);

  ZG_TRY(cudaMemsetAsync(first, 0, first_bytes(voxels), stream));
  ZG_TRY(launch(count_kernel, point_blocks, kThreads, stream, p, status));
  ZG_TRY(exclusive_prefix(first + 1, p.voxels, sums, stream));
  ZG_TRY(launch(scatter_kernel, point_blocks, kThreads, stream, p));
  return with_float_type("type", type, [&](auto out_element) {
    using Out = decltype(out_element);
    Out* to = static_cast<Out*>(features);
    ZG_TRY(launch(offset_kernel<Out>, blocks_for(voxels, kThreads), kThreads, stream, p, 0.5f * static_cast<float>(1 << depth),
                  std::int64_t{3} + channels, to, status));
    if (channels == 0) return static_cast<int>(cudaSuccess);
    return with_float_type("image_type", image_type, [&](auto element) {
      using T = decltype(element);
      const FeatureMap<T> map = {static_cast<const T*>(image_features), channels, padded_height, padded_width, height, width,
                                 intrinsics, z_min, half_extent};
      return static_cast<int>(launch(sample_kernel<T, Out>, sample_blocks * blocks_for(channels, kPlanes), kSampleThreads, stream,
                                     p, map, static_cast<std::int32_t>(sample_blocks), to));
    });
  });
}
