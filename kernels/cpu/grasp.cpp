#include <algorithm>
#include <cmath>
#include <limits>

#include "core/grasp_refinement.h"

namespace zerograsp {
namespace {

using grasp::Gripper;
using grasp::Pose;

// Fine enough that the cells which a finger touches hold few other points, coarse enough that they are few. Where the
// scene is so large that the grid would get more than kMaxCells, cells grow.
constexpr float kCell = 0.016f;
constexpr double kMaxCells = 1 << 21;
constexpr std::int64_t kGraspsPerTask = 16;
constexpr std::int64_t kPointsPerTask = 1 << 14;

struct Bounds {
  float low[3], high[3];
  void reset() {
    for (int a = 0; a < 3; ++a) low[a] = std::numeric_limits<float>::infinity(), high[a] = -low[a];
  }
  void include(int axis, float from, float to) {
    low[axis] = std::min(low[axis], from), high[axis] = std::max(high[axis], to);
  }
};

template <class T>
void reserve_size(std::vector<T>& v, std::size_t size) {
  if (v.size() < size) v.resize(size);
}

ZG_HD Pose pose_of(const GraspSet& grasps, std::int64_t i) {
  return {grasps.rotation + 9 * i, grasps.translation + 3 * i};
}

// Where the hands may touch something, on their way and in place.
Bounds reach_of(const GraspSet& grasps, const Gripper& g) {
  Bounds all;
  all.reset();
  const float half_z = 0.5f * std::max(g.finger_height, g.palm_height), sweep = std::max(g.sweep, 0.0f);
  for (std::int64_t i = 0; i < grasps.count; ++i) {
    const Pose pose = pose_of(grasps, i);
    const float depth = std::max(grasps.depth[i], 0.0f);
    // The depth may shrink to 0, and the fingers' base with it; the width grows by a clearance on either side.
    const float back = (g.finger_length > 0 ? -g.finger_length : -g.finger_base) - g.palm_thickness - sweep;
    const float half_y =
        std::max(0.5f * grasps.width[i] + g.max_clearance + g.finger_thickness, 0.5f * g.palm_width);
    for (int a = 0; a < 3; ++a) {
      const float* r = pose.rotation + 3 * a;
      const float side = std::fabs(r[1]) * half_y + std::fabs(r[2]) * half_z + 1e-3f;
      const float x0 = pose.translation[a] + std::min(r[0] * back, r[0] * depth);
      const float x1 = pose.translation[a] + std::max(r[0] * back, r[0] * depth);
      all.include(a, x0 - side, x1 + side);
    }
  }
  return all;
}

Bounds bounds_of(const float* points, std::int64_t n) {
  Bounds all;
  all.reset();
  for (std::int64_t i = 0; i < n; ++i)
    for (int a = 0; a < 3; ++a) all.include(a, points[3 * i + a], points[3 * i + a]);
  return all;
}

struct Task {
  const GraspSet* grasps;
  const Gripper* gripper;
  const grasp::PointGrid* grid;
  float *width, *depth;
  std::int32_t* inner_points;
  std::uint8_t* status;
};

// The compiler makes one copy for AVX2 and one for every x86-64, and picks at load time; without FMA both give the same
// bits.
#if defined(__x86_64__) && defined(__gnu_linux__)
__attribute__((target_clones("avx2", "default")))
#endif
void refine_range(const Task& task, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const grasp::Outcome out =
        grasp::refine(*task.gripper, *task.grid, pose_of(*task.grasps, i), task.grasps->width[i], task.grasps->depth[i]);
    task.width[i] = out.width, task.depth[i] = out.depth;
    task.inner_points[i] = out.inner_points, task.status[i] = out.status;
  }
}

}  // namespace

void GraspRefinement::build_grid(const Parallel& parallel, const GraspSet& grasps, const Gripper& gripper,
                                 const float* points, std::int64_t n) {
  const Bounds reach = reach_of(grasps, gripper), cloud = bounds_of(points, n);
  double extent[3];
  Bounds box;
  bool empty = n == 0 || grasps.count == 0;
  for (int a = 0; a < 3; ++a) {
    box.low[a] = std::max(reach.low[a], cloud.low[a]), box.high[a] = std::min(reach.high[a], cloud.high[a]);
    empty = empty || !(box.low[a] <= box.high[a]);
    extent[a] = empty ? 0.0 : static_cast<double>(box.high[a]) - box.low[a];
  }
  double cell = kCell;
  const auto cells_along = [&](int a) { return std::floor(extent[a] / cell) + 1; };
  while (cells_along(0) * cells_along(1) * cells_along(2) > kMaxCells) cell *= 1.25;

  grid_.cell = static_cast<float>(cell);
  for (int a = 0; a < 3; ++a) {
    grid_.origin[a] = empty ? 0.0f : box.low[a];
    grid_.cells[a] = static_cast<std::int32_t>(cells_along(a));
  }
  const std::size_t cells = static_cast<std::size_t>(grid_.cells[0]) * grid_.cells[1] * grid_.cells[2];
  reserve_size(first_, cells + 1);
  std::fill(first_.begin(), first_.begin() + static_cast<std::ptrdiff_t>(cells) + 1, 0);
  reserve_size(cell_of_, static_cast<std::size_t>(n));

  parallel_for(parallel, static_cast<std::size_t>((n + kPointsPerTask - 1) / kPointsPerTask), [&](std::size_t task) {
    const std::int64_t begin = static_cast<std::int64_t>(task) * kPointsPerTask, end = std::min(begin + kPointsPerTask, n);
    for (std::int64_t i = begin; i < end; ++i) {
      const float* p = points + 3 * i;
      std::int32_t where = empty ? -1 : 0;
      for (int a = 0; a < 3 && where >= 0; ++a) {
        if (p[a] < box.low[a] || p[a] > box.high[a]) {
          where = -1;
        } else {
          const auto along = static_cast<std::int32_t>((p[a] - grid_.origin[a]) / grid_.cell);
          where = where * grid_.cells[a] + std::min(along, grid_.cells[a] - 1);
        }
      }
      cell_of_[i] = where;
    }
  });
  for (std::int64_t i = 0; i < n; ++i)
    if (cell_of_[i] >= 0) ++first_[cell_of_[i] + 1];
  for (std::size_t c = 0; c < cells; ++c) first_[c + 1] += first_[c];
  const auto kept = static_cast<std::size_t>(first_[cells]);
  const std::size_t row = kept + grasp::kBlock;
  reserve_size(sorted_, 3 * row);
  reserve_size(index_, row);
  // Filling from the back leaves every cell's begin in place and its points in the cloud's order.
  for (std::int64_t i = n - 1; i >= 0; --i) {
    if (cell_of_[i] < 0) continue;
    const std::int32_t to = --first_[cell_of_[i] + 1];
    index_[to] = static_cast<std::int32_t>(i);
    for (int a = 0; a < 3; ++a) sorted_[a * row + static_cast<std::size_t>(to)] = points[3 * i + a];
  }
  // The ends were counted down to the begins: first_[c + 1] is now where cell c begins.
  std::copy(first_.begin() + 1, first_.begin() + static_cast<std::ptrdiff_t>(cells) + 1, first_.begin());
  first_[cells] = static_cast<std::int32_t>(kept);

  grid_.first = first_.data(), grid_.index = index_.data();
  grid_.x = sorted_.data(), grid_.y = grid_.x + row, grid_.z = grid_.y + row;
  grid_.cloud = points, grid_.total = n;
}

void GraspRefinement::refine(const Parallel& parallel, const GraspSet& grasps, const Gripper& gripper,
                             const float* points, std::int64_t n, float* width, float* depth,
                             std::int32_t* inner_points, std::uint8_t* status) {
  build_grid(parallel, grasps, gripper, points, n);
  const Task all = {&grasps, &gripper, &grid_, width, depth, inner_points, status};
  const std::int64_t tasks = (grasps.count + kGraspsPerTask - 1) / kGraspsPerTask;
  parallel_for(parallel, static_cast<std::size_t>(tasks), [&](std::size_t task) {
    const std::int64_t begin = static_cast<std::int64_t>(task) * kGraspsPerTask;
    refine_range(all, begin, std::min(begin + kGraspsPerTask, grasps.count));
  });
}

void GraspRefinement::suppress(const GraspSet& grasps, const std::int32_t* group, const grasp::Sameness& limit,
                               std::uint8_t* kept) {
  if (!(limit.distance > 0)) {
    std::fill(kept, kept + grasps.count, std::uint8_t{1});
    return;
  }
  std::size_t buckets = 64;
  while (buckets < 2 * static_cast<std::size_t>(grasps.count)) buckets *= 2;
  reserve_size(bucket_, buckets);
  reserve_size(next_, static_cast<std::size_t>(grasps.count));
  std::fill(bucket_.begin(), bucket_.begin() + static_cast<std::ptrdiff_t>(buckets), -1);

  // Kept grasps hang in buckets of a grid whose cells are as large as the distance. Rounding of the quotient is covered
  // by cells that are a little larger than that.
  const double cell = 1.001 * static_cast<double>(limit.distance);
  const auto bucket_at = [&](std::int64_t x, std::int64_t y, std::int64_t z) {
    const std::uint64_t hash = static_cast<std::uint64_t>(x) * 0x9E3779B97F4A7C15u ^
                               static_cast<std::uint64_t>(y) * 0xC2B2AE3D27D4EB4Fu ^
                               static_cast<std::uint64_t>(z) * 0x165667B19E3779F9u;
    return static_cast<std::size_t>((hash ^ hash >> 29) & (buckets - 1));
  };
  for (std::int64_t i = 0; i < grasps.count; ++i) {
    const Pose pose = pose_of(grasps, i);
    std::int64_t at[3];
    for (int a = 0; a < 3; ++a) at[a] = static_cast<std::int64_t>(std::floor(pose.translation[a] / cell));
    const auto repeats = [&]() {
      for (std::int64_t x = at[0] - 1; x <= at[0] + 1; ++x)
        for (std::int64_t y = at[1] - 1; y <= at[1] + 1; ++y)
          for (std::int64_t z = at[2] - 1; z <= at[2] + 1; ++z)
            for (std::int32_t j = bucket_[bucket_at(x, y, z)]; j >= 0; j = next_[j])
              if (group[i] == group[j] && grasp::same_grasp(limit, pose, pose_of(grasps, j))) return true;
      return false;
    };
    kept[i] = !repeats();
    if (!kept[i]) continue;
    std::int32_t& head = bucket_[bucket_at(at[0], at[1], at[2])];
    next_[i] = head, head = static_cast<std::int32_t>(i);
  }
}

}  // namespace zerograsp
