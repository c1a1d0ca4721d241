// What the camera sees, as points that a hand may collide with: every so many pixels of the depth image, in raster order.
//
// As zerograsp_edge.runtime.grasp.refine.visible_points, bit for bit: compile with --fmad=false.
#include <cfloat>
#include <cmath>

#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

struct Plane {
  float normal[3], level;  // points with normal . point > level count
  bool there;
};

struct Samples {
  const float* depth;  // mm
  int width;
  std::int64_t stride;
  const float* intrinsics;  // (3, 3) K, row-major
  float min_depth;          // mm
  Plane plane;

  // m, camera frame; false without a valid depth, or where the plane leaves the point out.
  __device__ __forceinline__ bool point(std::int64_t sample, float* to) const {
    const auto pixel = static_cast<std::uint32_t>(sample * stride), columns = static_cast<std::uint32_t>(width);
    const float depth_here = depth[pixel];
    if (!(depth_here > min_depth && depth_here <= FLT_MAX)) return false;
    const float z = depth_here / 1000.0f;
    to[0] = (static_cast<float>(pixel % columns) - intrinsics[2]) / intrinsics[0] * z;
    to[1] = (static_cast<float>(pixel / columns) - intrinsics[5]) / intrinsics[4] * z;
    to[2] = z;
    return !plane.there || plane.normal[0] * to[0] + plane.normal[1] * to[1] + plane.normal[2] * to[2] > plane.level;
  }

  __device__ __forceinline__ bool operator()(std::int64_t sample, bool*, std::int32_t*) const {
    float at[3];
    return point(sample, at);
  }
};

__global__ void __launch_bounds__(kRankThreads)
    write_kernel(const Samples samples, std::int64_t n, const std::int32_t* block_ranks, const SplitCounts* visible,
                 const std::int32_t* first, std::int64_t max_points, float* points, std::int32_t* counts, std::int32_t* status) {
  ZG_SHARED(RankScratch, scratch);
  const std::int64_t before = first == nullptr || *first < 0 ? 0 : *first;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    std::int64_t total = before + visible->splits;
    if (total > max_points) {
      total = max_points;
      if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgPointsExceeded));
    }
    counts[0] = static_cast<std::int32_t>(total);
    counts[1] = counts[2] = counts[3] = 0;
  }
  std::int64_t rank_of_round = before + block_ranks[blockIdx.x];
  for (int round = 0; round < kSplitRounds; ++round) {
    const std::int64_t sample = static_cast<std::int64_t>(blockIdx.x) * kNodesPerBlock + round * kRankThreads + threadIdx.x;
    float at[3] = {0.0f, 0.0f, 0.0f};
    const bool seen = sample < n && samples.point(sample, at);
    int total;
    const std::int64_t row = rank_of_round + block_rank(seen, scratch, &total);
    rank_of_round += total;
    if (seen && row < max_points)
      for (int axis = 0; axis < 3; ++axis) points[3 * row + axis] = at[axis];
  }
}

constexpr std::size_t kAlignment = 256;

std::int64_t sample_count(std::int32_t height, std::int32_t width, std::int32_t stride) {
  return blocks_for(static_cast<std::int64_t>(height) * width, stride);
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

size_t zg_cuda_visible_points_workspace(int32_t height, int32_t width, int32_t stride) {
  if (height < 1 || width < 1 || stride < 1) return 0;
  return kAlignment + zg_cuda_grow_workspace(sample_count(height, width, stride));
}

int zg_cuda_visible_points(const float* depth, int32_t height, int32_t width, const float* intrinsics, int32_t stride,
                           float min_depth, const float* plane, const int32_t* first, float* points, int64_t max_points,
                           int32_t* counts, int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("height", height, 1, 1 << 14));
  ZG_TRY(expect_size("width", width, 1, 1 << 14));
  ZG_TRY(expect_size("stride", stride, 1, kMaxRows));
  ZG_TRY(expect_size("max_points", max_points, 1, kMaxRows));
  if (!(min_depth >= 0.0f)) return invalid("min_depth: expected a length in mm, got %g", static_cast<double>(min_depth));
  for (int k = 0; plane != nullptr && k < 4; ++k)
    if (!std::isfinite(plane[k])) return invalid("plane: expected four finite numbers in host memory, got NaN or infinity");
  ZG_TRY(expect_pointer("depth", depth, true));
  ZG_TRY(expect_pointer("intrinsics", intrinsics, true));
  ZG_TRY(expect_pointer("points", points, true));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_visible_points_workspace(height, width, stride)));
  auto* visible = static_cast<SplitCounts*>(workspace);
  auto* block_counts = reinterpret_cast<std::int32_t*>(static_cast<char*>(workspace) + kAlignment);
  Samples samples = {depth, width, stride, intrinsics, min_depth, {}};
  if (plane != nullptr) samples.plane = {{plane[0], plane[1], plane[2]}, plane[3], true};
  const std::int64_t n = sample_count(height, width, stride), blocks = blocks_for(n, kNodesPerBlock);
  const Extent all = {n, nullptr};

  ZG_TRY(cudaMemsetAsync(visible, 0, sizeof(SplitCounts), stream));
  ZG_TRY(launch(count_splits_kernel<Samples>, blocks, kRankThreads, stream, samples, all, block_counts, visible, status));
  ZG_TRY(sum_splits(block_counts, blocks, all, max_points, false, kZgPointsExceeded, visible, status, stream));
  return launch(write_kernel, blocks, kRankThreads, stream, samples, n, static_cast<const std::int32_t*>(block_counts),
                static_cast<const SplitCounts*>(visible), first, max_points, points, counts, status);
}
