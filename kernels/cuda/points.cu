// From a depth image and instance masks to what octrees are built of: the points of all objects, normalised to the octree's
// cube, in raster order; and which masks touch.
//
// The cube's near side follows from the nearest point, so the image is read twice. Coordinates are decisions of the published
// network: float64 products of the float32 inverse intrinsics, in its order; compile with --fmad=false.
#include <cfloat>
#include <cmath>

#include "cuda/ordered_float.h"
#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kReach = 4;  // pixels: two dilations of 2
constexpr std::size_t kAlignment = 256;

struct Frame {
  const float* depth;          // mm
  const std::int32_t* labels;  // object, -1: none
  int width, height;
  std::int32_t objects;

  __device__ __forceinline__ std::int64_t pixels() const { return static_cast<std::int64_t>(width) * height; }
  __device__ __forceinline__ bool is_object(std::int32_t label) const { return label >= 0 && label < objects; }
};

struct Cube {
  float grid_size;    // mm, edge of a node at depth min_lod
  float z_margin;     // nodes of that edge between the cube's near side and the nearest point
  float half_extent;  // mm from the optical axis to the cube's side
  float margin;       // points keep this far from the cube's sides, in normalised units
  float min_depth;    // mm; a pixel is valid beyond it
};

struct Scan {
  Frame frame;
  const float* inverse;  // (3, 3) K^-1, row-major
  Cube cube;
  const float* z_min;

  __device__ __forceinline__ bool valid(std::int64_t pixel) const {
    const float depth = frame.depth[pixel];
    return frame.is_object(frame.labels[pixel]) && depth > cube.min_depth && depth <= FLT_MAX;
  }

  // mm, camera frame.
  __device__ __forceinline__ float coordinate(int axis, std::int64_t pixel) const {
    const auto i = static_cast<std::uint32_t>(pixel), width = static_cast<std::uint32_t>(frame.width);
    const double u = i % width, v = i / width;
    const double ray = (static_cast<double>(inverse[3 * axis]) * u + static_cast<double>(inverse[3 * axis + 1]) * v) +
                       static_cast<double>(inverse[3 * axis + 2]);
    return static_cast<float>(ray * static_cast<double>(frame.depth[pixel]));
  }

  // The normalised point of a valid pixel; false if it lies outside the cube's margin.
  __device__ __forceinline__ bool point(std::int64_t pixel, float* to) const {
    const float edge = 2.0f * cube.half_extent, high = 1.0f - cube.margin, low = -high;
    to[0] = coordinate(0, pixel) / cube.half_extent;
    to[1] = coordinate(1, pixel) / cube.half_extent;
    to[2] = 2.0f * ((coordinate(2, pixel) - *z_min) / edge - 0.5f);
    return to[0] > low && to[0] < high && to[1] > low && to[1] < high && to[2] > low && to[2] < high;
  }

  // Chosen are pixels with a point in the cube.
  __device__ __forceinline__ bool operator()(std::int64_t pixel, bool*, std::int32_t*) const {
    float at[3];
    return valid(pixel) && point(pixel, at);
  }
};

// One more for `label` of every thread of the warp that has `chosen`; a warp mostly sees a single object.
__device__ __forceinline__ void count_label(std::int32_t* counts, std::int32_t label, bool chosen) {
  const unsigned votes = __ballot_sync(0xffffffffu, chosen);
  if (votes == 0) return;
  int first = 0;
  while (!(votes >> first & 1u)) ++first;
  const std::int32_t label_of_first = __shfl_sync(0xffffffffu, label, first);
  const bool differs = __any_sync(0xffffffffu, chosen && label != label_of_first);
  if (differs) {
    if (chosen) atomicAdd(counts + label, 1);
  } else if (static_cast<int>(threadIdx.x % 32) == first) {
    atomicAdd(counts + label, __popc(votes));
  }
}

__global__ void __launch_bounds__(kThreads) nearest_kernel(const Scan scan, std::int32_t* nearest, std::int32_t* valid_labels,
                                                           std::int32_t* valid_counts, std::int32_t* status) {
  const std::int64_t pixel = global_thread();
  const bool there = pixel < scan.frame.pixels();
  const std::int32_t label = there ? scan.frame.labels[pixel] : -1;
  const bool valid = there && scan.valid(pixel);
  if (label != -1 && !scan.frame.is_object(label) && status != nullptr)
    atomicOr(status, static_cast<std::int32_t>(kZgLabelOutOfRange));
  if (there && valid_labels != nullptr) valid_labels[pixel] = valid ? label : -1;
  lower_minimum(nearest, valid ? scan.coordinate(2, pixel) : 0.0f, valid);
  count_label(valid_counts, label, valid);
}

__global__ void z_min_kernel(const std::int32_t* nearest, Cube cube, float* z_min) {
  const float z = from_ordered(*nearest), g = cube.grid_size;
  *z_min = *nearest == kNoMinimum ? __int_as_float(0x7fc00000) : floorf(z / g) * g - cube.z_margin * g;
}

__global__ void __launch_bounds__(kRankThreads)
    write_points_kernel(const Scan scan, const std::int32_t* block_ranks, std::int64_t max_points, float* points,
                        std::int32_t* object, std::int32_t* object_counts) {
  ZG_SHARED(RankScratch, scratch);
  std::int64_t rank_of_round = block_ranks[blockIdx.x];
  for (int round = 0; round < kSplitRounds; ++round) {
    const std::int64_t pixel = static_cast<std::int64_t>(blockIdx.x) * kNodesPerBlock + round * kRankThreads + threadIdx.x;
    float at[3] = {0.0f, 0.0f, 0.0f};
    const bool inside = pixel < scan.frame.pixels() && scan.valid(pixel) && scan.point(pixel, at);
    int total;
    const std::int64_t rank = rank_of_round + block_rank(inside, scratch, &total);
    rank_of_round += total;
    const bool kept = inside && rank < max_points;
    const std::int32_t label = inside ? scan.frame.labels[pixel] : -1;
    count_label(object_counts, label, kept);
    if (!kept) continue;
    for (int axis = 0; axis < 3; ++axis) points[3 * rank + axis] = at[axis];
    object[rank] = label;
  }
}

// The 5x5-dilated masks of two objects overlap exactly when a pixel of one lies within 4 columns and 4 rows of a pixel of
// the other. A thread looks ahead from its pixel; several may write the same 1.
__global__ void __launch_bounds__(kThreads) adjacency_kernel(const Frame frame, std::uint8_t* adjacent, std::int32_t* status) {
  const std::int64_t pixel = global_thread();
  if (pixel >= frame.pixels()) return;
  const std::int32_t label = frame.labels[pixel];
  if (label == -1) return;
  if (!frame.is_object(label)) {
    if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgLabelOutOfRange));
    return;
  }
  const int u = static_cast<int>(pixel % frame.width), v = static_cast<int>(pixel / frame.width);
  for (int y = v; y <= v + kReach && y < frame.height; ++y)
    for (int x = u < kReach ? 0 : u - kReach; x <= u + kReach && x < frame.width; ++x) {
      const std::int32_t other = frame.labels[static_cast<std::int64_t>(y) * frame.width + x];
      if (other == label || !frame.is_object(other)) continue;
      adjacent[static_cast<std::int64_t>(label) * frame.objects + other] = 1;
      adjacent[static_cast<std::int64_t>(other) * frame.objects + label] = 1;
    }
}

int expect_frame(const float* depth, const std::int32_t* labels, std::int32_t height, std::int32_t width, std::int32_t objects,
                 bool with_depth) {
  ZG_TRY(expect_size("height", height, 1, 1 << 14));
  ZG_TRY(expect_size("width", width, 1, 1 << 14));
  ZG_TRY(expect_size("objects", objects, 1, 32767));
  ZG_TRY(expect_pointer("depth", depth, with_depth));
  return expect_pointer("labels", labels, true);
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

size_t zg_cuda_points_from_depth_workspace(int32_t height, int32_t width) {
  if (height < 1 || width < 1) return 0;
  return kAlignment + zg_cuda_grow_workspace(static_cast<std::int64_t>(height) * width);
}

int zg_cuda_points_from_depth(const float* depth, const int32_t* labels, int32_t height, int32_t width, int32_t objects,
                              const float* inverse, float grid_size, float z_margin, float half_extent, float margin,
                              float min_depth, int32_t* valid_labels, float* points, int32_t* object, int64_t max_points,
                              float* z_min, int32_t* counts, int32_t* object_counts, int32_t* object_valid_counts,
                              int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_frame(depth, labels, height, width, objects, true));
  ZG_TRY(expect_size("max_points", max_points, 1, kMaxRows));
  if (!(grid_size > 0.0f && half_extent > 0.0f && margin >= 0.0f && margin < 1.0f && min_depth >= 0.0f))
    return invalid("grid_size, half_extent, margin, min_depth: expected lengths in mm and a margin below 1, got %g, %g, %g, %g",
                   static_cast<double>(grid_size), static_cast<double>(half_extent), static_cast<double>(margin),
                   static_cast<double>(min_depth));
  ZG_TRY(expect_pointer("inverse", inverse, true));
  ZG_TRY(expect_pointer("points", points, true));
  ZG_TRY(expect_pointer("object", object, true));
  ZG_TRY(expect_pointer("z_min", z_min, true));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_pointer("object_counts", object_counts, true));
  ZG_TRY(expect_pointer("object_valid_counts", object_valid_counts, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_points_from_depth_workspace(height, width)));
  auto* nearest = static_cast<std::int32_t*>(workspace);
  auto* block_counts = reinterpret_cast<std::int32_t*>(static_cast<char*>(workspace) + kAlignment);
  auto* total = reinterpret_cast<SplitCounts*>(counts);
  const Frame frame = {depth, labels, width, height, objects};
  const Cube cube = {grid_size, z_margin, half_extent, margin, min_depth};
  const Scan scan = {frame, inverse, cube, z_min};
  const std::int64_t pixels = static_cast<std::int64_t>(width) * height, blocks = blocks_for(pixels, kNodesPerBlock);
  const Extent all = {pixels, nullptr};

  ZG_TRY(cudaMemsetAsync(nearest, kNoMinimumByte, sizeof(std::int32_t), stream));
  ZG_TRY(cudaMemsetAsync(counts, 0, sizeof(SplitCounts), stream));
  ZG_TRY(cudaMemsetAsync(object_counts, 0, sizeof(std::int32_t) * static_cast<std::size_t>(objects), stream));
  ZG_TRY(cudaMemsetAsync(object_valid_counts, 0, sizeof(std::int32_t) * static_cast<std::size_t>(objects), stream));
  ZG_TRY(launch(nearest_kernel, blocks_for(pixels, kThreads), kThreads, stream, scan, nearest, valid_labels,
                object_valid_counts, status));
  ZG_TRY(launch(z_min_kernel, 1, 1, stream, static_cast<const std::int32_t*>(nearest), cube, z_min));
  ZG_TRY(launch(count_splits_kernel<Scan>, blocks, kRankThreads, stream, scan, all, block_counts, total, status));
  ZG_TRY(sum_splits(block_counts, blocks, all, max_points, false, kZgPointsExceeded, total, status, stream));
  return launch(write_points_kernel, blocks, kRankThreads, stream, scan, static_cast<const std::int32_t*>(block_counts),
                max_points, points, object, object_counts);
}

int zg_cuda_adjacency(const int32_t* labels, int32_t height, int32_t width, int32_t objects, uint8_t* adjacent, int32_t* status,
                      CUstream_st* stream) {
  ZG_TRY(expect_frame(nullptr, labels, height, width, objects, false));
  ZG_TRY(expect_pointer("adjacent", adjacent, true));
  const Frame frame = {nullptr, labels, width, height, objects};
  ZG_TRY(cudaMemsetAsync(adjacent, 0, static_cast<std::size_t>(objects) * static_cast<std::size_t>(objects), stream));
  return launch(adjacency_kernel, blocks_for(static_cast<std::int64_t>(width) * height, kThreads), kThreads, stream, frame,
                adjacent, status);
}
