// Grasps of a frame against its points, and their suppression, on the CPU. Scratch memory grows and never shrinks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/grasp.h"
#include "core/parallel.h"

namespace zerograsp {

struct GraspSet {
  const float* rotation;     // (count, 3, 3)
  const float* translation;  // (count, 3) m
  const float* width;        // (count) m
  const float* depth;        // (count) m
  std::int64_t count;
};

class GraspRefinement {
 public:
  // points: (n, 3) m, fewer than 2^31. Writes `count` outcomes.
  void refine(const Parallel& parallel, const GraspSet& grasps, const grasp::Gripper& gripper, const float* points,
              std::int64_t n, float* width, float* depth, std::int32_t* inner_points, std::uint8_t* status);

  // Greedy: grasps come best first; one that is the same as a kept one of its group is dropped. kept: (count) 0 or 1.
  void suppress(const GraspSet& grasps, const std::int32_t* group, const grasp::Sameness& limit, std::uint8_t* kept);

 private:
  void build_grid(const Parallel& parallel, const GraspSet& grasps, const grasp::Gripper& gripper, const float* points,
                  std::int64_t n);

  grasp::PointGrid grid_{};
  std::vector<std::int32_t> cell_of_, first_, index_, bucket_, next_;
  std::vector<float> sorted_;
};

}  // namespace zerograsp
