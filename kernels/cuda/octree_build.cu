// Octrees of all objects of a frame from their points, from the full grid downwards: points mark the children that they lie
// in, the marked nodes get ranks (cuda/split.h), the points follow. Nodes come out in the order of their keys without a sort,
// as a node's children lie together and behind those of the nodes before it; the points may come in any order.
//
// Voxels are decisions on float32: compile with --fmad=false.
#include "core/octree_neighbours.h"
#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::size_t kAlignment = 256;

struct Points {
  const float* position;       // (n, 3) in [-1, 1)
  const std::int32_t* object;  // (n)
  Extent n;
  std::uint32_t* morton;  // (n) key of the voxel within its object
  std::int32_t* node;     // (n) node of the current depth, -1: the point is lost
};

// Marks: several threads may write the same 1.
struct Marked {
  const std::uint8_t* marks;
  __device__ __forceinline__ bool operator()(std::int64_t node, bool*, std::int32_t*) const { return marks[node] != 0; }
};

__global__ void __launch_bounds__(kThreads) place_kernel(const Points points, std::int64_t objects, int depth, int full_depth,
                                                         std::uint8_t* marks, std::int32_t* status) {
  const std::int64_t i = global_thread();
  if (i >= points.n.size()) return;
  const float cells = static_cast<float>(1 << depth), half_cells = 0.5f * cells;  // [-1, 1) becomes [0, 2^depth)
  float at[3];
  bool inside = true;
  ZG_UNROLL
  for (int axis = 0; axis < 3; ++axis) {
    at[axis] = (points.position[3 * i + axis] + 1.0f) * half_cells;
    inside = inside && at[axis] >= 0.0f && at[axis] < cells;
  }
  const std::int32_t object = points.object[i];
  const bool owned = object >= 0 && object < objects;
  if (!inside || !owned) {
    if (status != nullptr)
      atomicOr(status, static_cast<std::int32_t>((inside ? 0 : kZgPointOutOfRange) | (owned ? 0 : kZgObjectOutOfRange)));
    points.node[i] = -1;
    return;
  }
  const std::uint32_t morton = morton_encode(static_cast<std::uint32_t>(static_cast<std::int32_t>(at[0])),
                                             static_cast<std::uint32_t>(static_cast<std::int32_t>(at[1])),
                                             static_cast<std::uint32_t>(static_cast<std::int32_t>(at[2])));
  const std::int32_t node = static_cast<std::int32_t>((static_cast<std::int64_t>(object) << (3 * full_depth)) +
                                                      (morton >> (3 * (depth - full_depth))));
  points.morton[i] = morton;
  points.node[i] = node;
  marks[node] = 1;
}

__global__ void __launch_bounds__(kThreads) grid_keys_kernel(std::int64_t nodes, int depth, std::int64_t* keys) {
  const std::int64_t i = global_thread();
  if (i < nodes) keys[i] = object_key(i >> (3 * depth), static_cast<std::uint32_t>(i & ((std::int64_t{1} << (3 * depth)) - 1)));
}

// From a point's node to its child of the depth below, whose key is the point's key shifted by `shift`.
__global__ void __launch_bounds__(kThreads) descend_kernel(const Points points, const std::int32_t* children, int shift,
                                                           std::uint8_t* marks) {
  const std::int64_t i = global_thread();
  if (i >= points.n.size()) return;
  std::int32_t node = points.node[i];
  if (node < 0) return;
  const std::int32_t rank = children[node];
  node = rank < 0 ? -1 : 8 * rank + static_cast<std::int32_t>(points.morton[i] >> shift & 7u);
  points.node[i] = node;
  if (node >= 0) marks[node] = 1;
}

__global__ void __launch_bounds__(kThreads) voxel_kernel(const Points points, const std::int32_t* children, std::int32_t* voxel) {
  const std::int64_t i = global_thread();
  if (i >= points.n.size()) return;
  const std::int32_t node = points.node[i];
  voxel[i] = node < 0 ? -1 : children[node];
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

constexpr std::int64_t kMaxNodes = kMaxRows / (8 * kTaps);

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

size_t zg_cuda_build_octree_workspace(int64_t points, int64_t max_nodes) {
  if (points < 0 || max_nodes < 0) return 0;
  return 2 * aligned(4 * static_cast<std::size_t>(points)) + aligned(static_cast<std::size_t>(max_nodes)) +
         aligned(zg_cuda_grow_workspace(max_nodes));
}

int zg_cuda_build_octree(const float* points, const int32_t* object, int64_t n, const int32_t* n_count, int32_t objects,
                         int32_t depth, int32_t full_depth, const int64_t* nodes, int64_t max_voxels, int64_t* const* keys,
                         int32_t* const* children, int32_t* const* split_neighbours, int32_t* voxel, int32_t* counts,
                         int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("depth", depth, 1, kMaxDepth));
  ZG_TRY(expect_size("full_depth", full_depth, 0, depth));
  ZG_TRY(expect_size("objects", objects, 1, 32767));
  ZG_TRY(expect_size("points", n, 0, kMaxRows));
  ZG_TRY(expect_size("max_voxels", max_voxels, 1, kMaxNodes));
  const std::int64_t grid = static_cast<std::int64_t>(objects) << (3 * full_depth);
  if (nodes == nullptr || keys == nullptr || children == nullptr || split_neighbours == nullptr)
    return invalid("nodes, keys, children, split_neighbours: expected host arrays with an entry for every depth, got null");
  std::int64_t max_nodes = grid;
  for (int d = full_depth; d <= depth; ++d) {
    const int level = d - full_depth;
    ZG_TRY(expect_size("nodes", nodes[level], d == full_depth ? grid : 8, d == full_depth ? grid : kMaxNodes));
    if (nodes[level] % 8 != 0 && d != full_depth) return invalid("nodes: expected multiples of 8 below the full grid");
    ZG_TRY(expect_pointer("keys", keys[level], true));
    ZG_TRY(expect_pointer("children", children[level], true));
    if (d < depth) ZG_TRY(expect_pointer("split_neighbours", split_neighbours[level], true));
    max_nodes = nodes[level] > max_nodes ? nodes[level] : max_nodes;
  }
  ZG_TRY(expect_size("nodes of the full grid", grid, 1, kMaxNodes));
  ZG_TRY(expect_pointer("points", points, n > 0));
  ZG_TRY(expect_pointer("object", object, n > 0));
  ZG_TRY(expect_pointer("voxel", voxel, n > 0));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_build_octree_workspace(n, max_nodes)));

  char* scratch = static_cast<char*>(workspace);
  const auto take = [&](std::size_t bytes) {
    char* here = scratch;
    scratch += aligned(bytes);
    return here;
  };
  const std::size_t per_point = 4 * static_cast<std::size_t>(n);
  const Points cloud = {points, object, {n, n_count}, reinterpret_cast<std::uint32_t*>(take(per_point)),
                        reinterpret_cast<std::int32_t*>(take(per_point))};
  auto* marks = reinterpret_cast<std::uint8_t*>(take(static_cast<std::size_t>(max_nodes)));
  auto* block_counts = reinterpret_cast<std::int32_t*>(scratch);
  const std::int64_t point_blocks = blocks_for(n, kThreads);

  for (int d = full_depth; d <= depth; ++d) {
    const int level = d - full_depth;
    auto* counts_here = reinterpret_cast<SplitCounts*>(counts) + level;
    const Extent here = {nodes[level], d == full_depth ? nullptr : &counts_here[-1].next_nodes};
    ZG_TRY(cudaMemsetAsync(marks, 0, static_cast<std::size_t>(nodes[level]), stream));
    if (d == full_depth) {
      ZG_TRY(launch(grid_keys_kernel, blocks_for(grid, kThreads), kThreads, stream, grid, d, keys[0]));
      ZG_TRY(launch(place_kernel, point_blocks, kThreads, stream, cloud, static_cast<std::int64_t>(objects), depth, full_depth,
                    marks, status));
    } else {
      ZG_TRY(launch(descend_kernel, point_blocks, kThreads, stream, cloud,
                    static_cast<const std::int32_t*>(children[level - 1]), 3 * (depth - d), marks));
    }
    const std::int64_t max_splits = d < depth ? nodes[level + 1] / 8 : max_voxels;
    const SplitOutputs out = {keys[level], nullptr, children[level], nullptr, d < depth ? keys[level + 1] : nullptr, max_splits};
    ZG_TRY(split_nodes(Marked{marks}, here, false, out, counts_here, status, block_counts, stream));
    if (d == depth) break;
    if (d == full_depth) {
      ZG_TRY(zg_cuda_split_neighbours_of_grid(d, objects, children[level], split_neighbours[level], max_splits, stream));
    } else {
      ZG_TRY(zg_cuda_split_neighbours_from_parents(split_neighbours[level - 1], nodes[level] / 8, &counts_here[-1].splits,
                                                   children[level], split_neighbours[level], max_splits, stream));
    }
  }
  return launch(voxel_kernel, point_blocks, kThreads, stream, cloud, static_cast<const std::int32_t*>(children[depth - full_depth]),
                voxel);
}
