// 3D occlusion field: for every sub-voxel of a node, is it hidden behind the visible surface of its own object (self) or
// of a neighbouring one (inter)? The meaning is in kernels/README.md and reference/occlusion.py; the decision for one
// sub-voxel is in occlusion_decide.h, the rasterisation rules in occlusion_raster.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/occlusion_decide.h"
#include "core/parallel.h"

namespace zerograsp {

constexpr int kMaxOcclusionResolution = 32;

struct OcclusionInput {
  const float* centres;           // (nodes, 3) mm, camera frame
  const std::int32_t* object;     // (nodes) index into the objects
  int nodes;
  const float* depth;             // (height, width) mm
  const std::int32_t* labels;     // (height, width) object index, -1 = background
  int height, width;
  const std::uint8_t* adjacency;  // (objects, objects): [i, j] != 0: j's mask belongs to i's neighbour mask
  int objects;
  float fx, fy, cx, cy;
  float edge;                     // mm, of a node
  int resolution;                 // sub-voxels per edge, 1 .. kMaxOcclusionResolution
};

enum class OcclusionError { none, label_out_of_range, object_out_of_range, resolution_out_of_range };
const char* describe(OcclusionError error);

// Scratch memory, reused from call to call; it grows and never shrinks. One workspace serves one call at a time.
struct OcclusionWorkspace {
  struct Box {
    int x0, y0, x1, y1;  // inclusive; empty if x1 < x0
  };
  // The part of a masked depth image that one task builds.
  struct Band {
    int plane, first_row, last_row;
  };
  std::vector<Box> band_boxes, boxes;
  std::vector<std::int32_t> first_node, node_order;
  std::vector<occlusion::MaskedDepth> planes;  // self and inter of every object of a batch
  std::vector<float*> plane_tables;
  std::vector<Band> bands;
  std::vector<float> tables;
  // Masks are cut out in batches of objects that need at most this many floats (or one object), which bounds the memory
  // when masks are scattered over the whole image.
  std::size_t table_budget = std::size_t{16} << 20;
};

// out: (nodes, 2, resolution, resolution, resolution) 0 or 1; channel 0 self, 1 inter; sub-voxels x, y, z, z fastest.
// On an error `out` is not to be used.
OcclusionError occlusion_field(const OcclusionInput& input, float* out, OcclusionWorkspace& workspace,
                               const Parallel& parallel);

}  // namespace zerograsp
