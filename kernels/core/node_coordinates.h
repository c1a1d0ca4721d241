// Where a node lies: integer coordinates, normalised position and centre, from its key.
#pragma once
#include "core/morton.h"

namespace zerograsp {

struct NodePlace {
  std::int32_t node[3];
  float position[3];  // of the centre, in the cube's normalised coordinates, -1 to 1
  std::int32_t object;
};

ZG_HD NodePlace node_place(std::int64_t key, int depth) {
  NodePlace place;
  morton_decode(static_cast<std::uint32_t>(key & kMortonMask), &place.node[0], &place.node[1], &place.node[2]);
  const float edge = 2.0f / static_cast<float>(1 << depth);
  for (int axis = 0; axis < 3; ++axis) place.position[axis] = (static_cast<float>(place.node[axis]) + 0.5f) * edge - 1.0f;
  place.object = static_cast<std::int32_t>(key >> kObjectShift);
  return place;
}

// centre (3): mm, camera frame. half_extent: half the cube's edge, z_min: its near side, mm. In the published order of operations.
ZG_HD void node_centre(const NodePlace& place, float half_extent, float z_min, float* centre) {
  centre[0] = place.position[0] * half_extent;
  centre[1] = place.position[1] * half_extent;
  centre[2] = (place.position[2] / 2.0f + 0.5f) * (2.0f * half_extent) + z_min;
}

}  // namespace zerograsp
