// Refinement of grasps against a cloud of points: one thread per grasp, with the decisions of core/grasp.h.
//
// The points are sorted into a uniform grid by counting, summing and scattering. Within a cell they come in any order; that
// changes nothing, as a grasp counts points and breaks ties by their index in the cloud. Grid and bounds stay on the device.
//
// Refinement decides on float32: compile with --fmad=false.
#include <cmath>

#include "core/grasp.h"
#include "cuda/block_rank.h"
#include "cuda/error.h"
#include "cuda/ordered_float.h"

namespace zerograsp {
namespace cuda {
namespace {

using grasp::Gripper;
using grasp::Pose;

constexpr int kThreads = 256, kGraspThreads = 64;
constexpr float kCell = 0.016f;  // m; as on the CPU, where it is explained
constexpr std::int64_t kMaxCells = std::int64_t{1} << 18;  // beyond, cells grow
constexpr float kMaxCoordinate = 1e4f;  // m; as kernels/grasp.py: farther away positions would lose their millimetres
constexpr std::int64_t kCellsPerBlock = 4 * kRankThreads;
constexpr std::size_t kAlignment = 256;

// Where hands reach and points are, per axis: keys of the lowest coordinate and of the highest one's negative, so that every
// entry is a minimum.
struct Bounds {
  std::int32_t reach_low[3], reach_high[3], cloud_low[3], cloud_high[3];
};

struct Grid {
  float low[3], high[3], cell;
  std::int32_t cells[3], total;  // cells along the axes, and in all; 0: no hand can reach any point
};

// False for NaN too.
__device__ __forceinline__ bool is_position(float metres) { return fabsf(metres) <= kMaxCoordinate; }

struct Cloud {
  const float* points;  // (n, 3) m
  Extent n;
};

struct Grasps {
  const float* rotation;     // (count, 3, 3)
  const float* translation;  // (count, 3) m
  const float* width;        // (count) m
  const float* depth;        // (count) m
  Extent n;

  __device__ __forceinline__ Pose pose(std::int64_t i) const { return {rotation + 9 * i, translation + 3 * i}; }
  __device__ __forceinline__ bool finite(std::int64_t i) const {
    bool all = is_position(width[i]) && is_position(depth[i]);
    for (int k = 0; k < 9; ++k) all = all && is_position(rotation[9 * i + k]);
    for (int k = 0; k < 3; ++k) all = all && is_position(translation[3 * i + k]);
    return all;
  }
};

__global__ void __launch_bounds__(kThreads) cloud_bounds_kernel(const Cloud cloud, Bounds* bounds, std::int32_t* status) {
  const std::int64_t i = global_thread();
  const bool there = i < cloud.n.size();
  bool finite = true;
  ZG_UNROLL
  for (int axis = 0; axis < 3; ++axis) {
    const float at = there ? cloud.points[3 * i + axis] : 0.0f;
    const bool usable = is_position(at);
    finite = finite && usable;
    lower_minimum(&bounds->cloud_low[axis], at, there && usable);
    lower_minimum(&bounds->cloud_high[axis], -at, there && usable);
  }
  if (!finite && status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgNotFinite));
}

// Where the hands may touch something, on their way and in place.
__global__ void __launch_bounds__(kThreads) reach_kernel(const Grasps grasps, const Gripper g, Bounds* bounds) {
  const std::int64_t i = global_thread();
  const bool there = i < grasps.n.size() && grasps.finite(i);
  const float half_z = 0.5f * grasp::larger(g.finger_height, g.palm_height), sweep = grasp::larger(g.sweep, 0.0f);
  const float depth = there ? grasp::larger(grasps.depth[i], 0.0f) : 0.0f;
  // The depth may shrink to 0, and the fingers' base with it; the width grows by a clearance on either side.
  const float back = (g.finger_length > 0.0f ? -g.finger_length : -g.finger_base) - g.palm_thickness - sweep;
  const float half_y = grasp::larger(0.5f * (there ? grasps.width[i] : 0.0f) + g.max_clearance + g.finger_thickness,
                                     0.5f * g.palm_width);
  ZG_UNROLL
  for (int axis = 0; axis < 3; ++axis) {
    float r[3] = {0.0f, 0.0f, 0.0f}, t = 0.0f;
    if (there) {
      t = grasps.translation[3 * i + axis];
      for (int k = 0; k < 3; ++k) r[k] = grasps.rotation[9 * i + 3 * axis + k];
    }
    const float side = fabsf(r[1]) * half_y + fabsf(r[2]) * half_z + 1e-3f;
    lower_minimum(&bounds->reach_low[axis], t + grasp::smaller(r[0] * back, r[0] * depth) - side, there);
    lower_minimum(&bounds->reach_high[axis], -(t + grasp::larger(r[0] * back, r[0] * depth) + side), there);
  }
}

// One thread: the grid over what both bounds share.
__global__ void shape_kernel(const Bounds* bounds, Grid* grid) {
  bool empty = false;
  float extent[3];
  for (int axis = 0; axis < 3; ++axis) {
    // An entry that nothing has lowered is a huge number, so that an empty set has its low above its high.
    const float low = grasp::larger(from_ordered(bounds->reach_low[axis]), from_ordered(bounds->cloud_low[axis]));
    const float high = grasp::smaller(-from_ordered(bounds->reach_high[axis]), -from_ordered(bounds->cloud_high[axis]));
    empty = empty || !(low <= high);
    grid->low[axis] = low, grid->high[axis] = high;
    extent[axis] = high - low;
  }
  float cell = kCell;
  for (;;) {
    std::int64_t total = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const float along = empty ? 1.0f : floorf(extent[axis] / cell) + 1.0f;
      // Three factors of at most 2^20 cannot overflow; a longer axis alone is more than is allowed.
      grid->cells[axis] = along < 1048576.0f ? static_cast<std::int32_t>(along) : 1 << 20;
      total *= grid->cells[axis];
    }
    if (total <= kMaxCells) {
      grid->total = empty ? 0 : static_cast<std::int32_t>(total);
      break;
    }
    cell *= 1.25f;
  }
  grid->cell = cell;
}

// Cell of a point, -1 outside the grid.
__device__ __forceinline__ std::int32_t cell_of(const Grid& grid, const float* p) {
  if (grid.total == 0) return -1;
  std::int32_t where = 0;
  ZG_UNROLL
  for (int axis = 0; axis < 3; ++axis) {
    if (!(p[axis] >= grid.low[axis] && p[axis] <= grid.high[axis])) return -1;
    const auto along = static_cast<std::int32_t>((p[axis] - grid.low[axis]) / grid.cell);
    where = where * grid.cells[axis] + (along < grid.cells[axis] - 1 ? along : grid.cells[axis] - 1);
  }
  return where;
}

__global__ void __launch_bounds__(kThreads) count_kernel(const Cloud cloud, const Grid* grid, std::int32_t* counts) {
  const std::int64_t i = global_thread();
  if (i >= cloud.n.size()) return;
  const std::int32_t cell = cell_of(*grid, cloud.points + 3 * i);
  if (cell >= 0) atomicAdd(counts + cell, 1);
}

// Counts of cells become, within a block of cells, where each begins; and the block's sum.
__global__ void __launch_bounds__(kRankThreads) sum_cells_kernel(const Grid* grid, std::int32_t* counts, std::int32_t* sums) {
  ZG_SHARED(RankScratch, scratch);
  int sum = 0;
  if (blockIdx.x * kCellsPerBlock >= grid->total) return;  // its sum is 0 from the start
  for (int round = 0; round < kCellsPerBlock / kRankThreads; ++round) {
    const std::int64_t cell = blockIdx.x * kCellsPerBlock + round * kRankThreads + threadIdx.x;
    int total;
    const int before = block_prefix(counts[cell], scratch, &total);
    counts[cell] = sum + before;
    sum += total;
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kRankThreads) sum_blocks_kernel(std::int32_t* sums) {
  static_assert(kMaxCells / kCellsPerBlock == kRankThreads, "one sum for every thread");
  ZG_SHARED(RankScratch, scratch);
  int total;
  sums[threadIdx.x] = block_prefix(sums[threadIdx.x], scratch, &total);
}

__global__ void __launch_bounds__(kThreads) add_blocks_kernel(const Grid* grid, std::int32_t* begins,
                                                              const std::int32_t* sums) {
  const std::int64_t cell = global_thread();
  if (cell < grid->total) begins[cell] += sums[cell / kCellsPerBlock];
}

struct Sorted {
  float *x, *y, *z;
  std::int32_t* index;
};

// Every begin is moved to the cell's end, which is where the next one begins.
__global__ void __launch_bounds__(kThreads) scatter_kernel(const Cloud cloud, const Grid* grid, std::int32_t* begins,
                                                           const Sorted sorted) {
  const std::int64_t i = global_thread();
  if (i >= cloud.n.size()) return;
  const float* p = cloud.points + 3 * i;
  const std::int32_t cell = cell_of(*grid, p);
  if (cell < 0) return;
  const std::int32_t to = atomicAdd(begins + cell, 1);
  sorted.x[to] = p[0], sorted.y[to] = p[1], sorted.z[to] = p[2];
  sorted.index[to] = static_cast<std::int32_t>(i);
}

struct Outcomes {
  float *width, *depth;
  std::int32_t* inner_points;
  std::uint8_t* fit;
};

__global__ void __launch_bounds__(kGraspThreads)
    refine_kernel(const Grasps grasps, const Gripper gripper, const Cloud cloud, const Grid* shape, const std::int32_t* first,
                  const Sorted sorted, const Outcomes out, std::int32_t* status) {
  const std::int64_t i = global_thread();
  if (i >= grasps.n.size()) return;
  grasp::Outcome outcome = {grasps.width[i], grasps.depth[i], 0, grasp::kEmpty};
  if (grasps.finite(i)) {
    grasp::PointGrid grid;
    for (int axis = 0; axis < 3; ++axis)
      grid.origin[axis] = shape->total ? shape->low[axis] : 0.0f, grid.cells[axis] = shape->cells[axis];
    grid.cell = shape->cell, grid.first = first;
    grid.x = sorted.x, grid.y = sorted.y, grid.z = sorted.z, grid.index = sorted.index;
    grid.cloud = cloud.points, grid.total = cloud.n.size();
    outcome = grasp::refine(gripper, grid, grasps.pose(i), grasps.width[i], grasps.depth[i]);
  } else if (status != nullptr) {
    atomicOr(status, static_cast<std::int32_t>(kZgNotFinite));
  }
  out.width[i] = outcome.width, out.depth[i] = outcome.depth;
  out.inner_points[i] = outcome.inner_points, out.fit[i] = outcome.status;
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Four arrays of the points in the order of their cells. A scan reads whole blocks of points, past the last one too.
std::size_t sorted_bytes(std::int64_t points) { return aligned(4 * (static_cast<std::size_t>(points) + grasp::kBlock)); }

constexpr std::size_t kCellBytes = sizeof(std::int32_t) * (static_cast<std::size_t>(kMaxCells) + kAlignment / sizeof(std::int32_t));

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

size_t zg_cuda_refine_grasps_workspace(int64_t points) {
  if (points < 0) return 0;
  return aligned(sizeof(Bounds)) + aligned(sizeof(Grid)) + aligned(4 * kRankThreads) + kCellBytes + 4 * sorted_bytes(points);
}

int zg_cuda_refine_grasps(const float* rotation, const float* translation, const float* width, const float* depth, int64_t n,
                          const int32_t* n_count, const float* points, int64_t point_count, const int32_t* points_count,
                          const float* hand, int32_t min_inner_points, float* refined_width, float* refined_depth,
                          int32_t* inner_points, uint8_t* fit, int32_t* status, void* workspace, size_t workspace_bytes,
                          CUstream_st* stream) {
  ZG_TRY(expect_size("grasps", n, 0, kMaxRows));
  ZG_TRY(expect_size("points", point_count, 0, kMaxRows - grasp::kBlock));
  if (hand == nullptr) return invalid("hand: expected 12 lengths in host memory, got null");
  for (int k = 0; k < 12; ++k)
    if (std::isnan(hand[k])) return invalid("hand: expected lengths in m, got NaN at position %d", k);
  ZG_TRY(expect_pointer("rotation", rotation, n > 0));
  ZG_TRY(expect_pointer("translation", translation, n > 0));
  ZG_TRY(expect_pointer("width", width, n > 0));
  ZG_TRY(expect_pointer("depth", depth, n > 0));
  ZG_TRY(expect_pointer("points", points, point_count > 0));
  ZG_TRY(expect_pointer("refined_width", refined_width, n > 0));
  ZG_TRY(expect_pointer("refined_depth", refined_depth, n > 0));
  ZG_TRY(expect_pointer("inner_points", inner_points, n > 0));
  ZG_TRY(expect_pointer("fit", fit, n > 0));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_refine_grasps_workspace(point_count)));

  const Gripper gripper = {hand[0], hand[1], hand[2], hand[3], hand[4],  hand[5],  hand[6],
                           hand[7], hand[8], hand[9], hand[10], hand[11], min_inner_points};
  const Grasps grasps = {rotation, translation, width, depth, {n, n_count}};
  const Cloud cloud = {points, {point_count, points_count}};
  char* scratch = static_cast<char*>(workspace);
  const auto take = [&](std::size_t bytes) {
    char* here = scratch;
    scratch += aligned(bytes);
    return here;
  };
  auto* bounds = reinterpret_cast<Bounds*>(take(sizeof(Bounds)));
  auto* grid = reinterpret_cast<Grid*>(take(sizeof(Grid)));
  auto* sums = reinterpret_cast<std::int32_t*>(take(4 * kRankThreads));
  // One entry before the cells' own: 0, where the first cell begins once every begin has been moved to its cell's end.
  auto* first = reinterpret_cast<std::int32_t*>(take(kCellBytes));
  std::int32_t* cells = first + 1;
  char* const sorted_begin = scratch;
  Sorted sorted;
  for (float** axis : {&sorted.x, &sorted.y, &sorted.z}) *axis = reinterpret_cast<float*>(take(sorted_bytes(point_count)));
  sorted.index = reinterpret_cast<std::int32_t*>(take(sorted_bytes(point_count)));

  const std::int64_t point_blocks = blocks_for(point_count, kThreads), cell_blocks = kMaxCells / kCellsPerBlock;
  ZG_TRY(cudaMemsetAsync(bounds, kNoMinimumByte, sizeof(Bounds), stream));
  ZG_TRY(cudaMemsetAsync(sums, 0, 4 * kRankThreads, stream));
  ZG_TRY(cudaMemsetAsync(first, 0, kCellBytes, stream));
  ZG_TRY(cudaMemsetAsync(sorted_begin, 0, 4 * sorted_bytes(point_count), stream));
  ZG_TRY(launch(cloud_bounds_kernel, point_blocks, kThreads, stream, cloud, bounds, status));
  ZG_TRY(launch(reach_kernel, blocks_for(n, kThreads), kThreads, stream, grasps, gripper, bounds));
  ZG_TRY(launch(shape_kernel, 1, 1, stream, static_cast<const Bounds*>(bounds), grid));
  const Grid* shape = grid;
  ZG_TRY(launch(count_kernel, point_blocks, kThreads, stream, cloud, shape, cells));
  ZG_TRY(launch(sum_cells_kernel, cell_blocks, kRankThreads, stream, shape, cells, sums));
  ZG_TRY(launch(sum_blocks_kernel, 1, kRankThreads, stream, sums));
  ZG_TRY(launch(add_blocks_kernel, kMaxCells / kThreads, kThreads, stream, shape, cells, static_cast<const std::int32_t*>(sums)));
  ZG_TRY(launch(scatter_kernel, point_blocks, kThreads, stream, cloud, shape, cells, sorted));
  return launch(refine_kernel, blocks_for(n, kGraspThreads), kGraspThreads, stream, grasps, gripper, cloud, shape,
                static_cast<const std::int32_t*>(first), sorted, Outcomes{refined_width, refined_depth, inner_points, fit}, status);
}
