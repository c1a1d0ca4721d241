// Neighbour tables: expansion of a depth's from its parents', and the split nodes' own. One thread per node or entry; the
// reads of eight siblings share a line of the parents' table, the writes of a warp are consecutive.
#include "core/octree_neighbours.h"
#include "cuda/error.h"
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) expand_kernel(const std::int32_t* split_neighbours, Extent splits,
                                                          const std::int32_t* rank, std::int32_t* neighbours) {
  const std::int64_t node = global_thread(), stride = 8 * splits.capacity;
  if (node >= 8 * splits.size()) return;
  const std::int32_t* parents = split_neighbours + (node >> 3) * kTaps;
  const int child = static_cast<int>(node & 7);
  ZG_UNROLL
  for (int tap = 0; tap < kTaps; ++tap) {
    const int cell = neighbour_cell(child, tap);
    const std::int32_t parent = parents[cell_direction(cell)];
    std::int32_t at = static_cast<std::uint32_t>(parent) < splits.size() ? cell_node(parent, cell_child(cell)) : -1;
    if (rank != nullptr && at >= 0) at = rank[at];
    neighbours[tap * stride + node] = at;
  }
}

// One thread per node and tap; nodes that do not split end at once.
__global__ void __launch_bounds__(kThreads) from_parents_kernel(const std::int32_t* parents, Extent parent_splits,
                                                                const std::int32_t* children,
                                                                std::int32_t* split_neighbours, std::int64_t splits) {
  const auto i = static_cast<std::uint32_t>(global_thread());  // kMaxSplits: no 64-bit division
  const std::int64_t node = i / kTaps;
  if (node >= 8 * parent_splits.size()) return;
  const std::int32_t rank = children[node];
  if (rank < 0 || rank >= splits) return;
  const int tap = static_cast<int>(i % kTaps);
  split_neighbours[static_cast<std::int64_t>(rank) * kTaps + tap] =
      neighbour_rank(parents + (node >> 3) * kTaps, children, static_cast<int>(node & 7), tap);
}

__global__ void __launch_bounds__(kThreads) of_grid_kernel(int depth, std::int64_t objects, const std::int32_t* children,
                                                           std::int32_t* split_neighbours, std::int64_t splits) {
  const auto i = static_cast<std::uint32_t>(global_thread());
  const std::int64_t node = i / kTaps, cells = std::int64_t{1} << (3 * depth);
  if (node >= objects * cells) return;
  const std::int32_t rank = children[node];
  if (rank < 0 || rank >= splits) return;
  const int tap = static_cast<int>(i % kTaps);
  const std::int64_t cell = node & (cells - 1);
  split_neighbours[static_cast<std::int64_t>(rank) * kTaps + tap] =
      grid_neighbour_rank(static_cast<std::uint32_t>(cell), 1 << depth, children + (node - cell), tap);
}

__global__ void __launch_bounds__(kThreads) align_kernel(const std::int64_t* source, Extent sources,
                                                         const std::int64_t* target, Extent targets, std::int32_t* rows) {
  const std::int64_t i = global_thread();
  if (i < targets.size()) rows[i] = find_key(source, sources.size(), target[i]);
}

constexpr std::int64_t kMaxSplits = kMaxRows / (8 * kTaps);  // 27 entries for each of eight children, counted in int32

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

int zg_cuda_expand_neighbours(const int32_t* split_neighbours, int64_t splits, const int32_t* splits_count,
                              const int32_t* rank, int32_t* neighbours, CUstream_st* stream) {
  ZG_TRY(expect_size("splits", splits, 0, kMaxSplits));
  ZG_TRY(expect_pointer("split_neighbours", split_neighbours, splits > 0));
  ZG_TRY(expect_pointer("neighbours", neighbours, splits > 0));
  return launch(expand_kernel, blocks_for(8 * splits, kThreads), kThreads, stream, split_neighbours,
                Extent{splits, splits_count}, rank, neighbours);
}

int zg_cuda_align(const int64_t* source, int64_t sources, const int32_t* sources_count, const int64_t* target,
                  int64_t targets, const int32_t* targets_count, int32_t* rows, CUstream_st* stream) {
  ZG_TRY(expect_size("sources", sources, 0, kMaxRows));
  ZG_TRY(expect_size("targets", targets, 0, kMaxRows));
  ZG_TRY(expect_pointer("source", source, sources > 0));
  ZG_TRY(expect_pointer("target", target, targets > 0));
  ZG_TRY(expect_pointer("rows", rows, targets > 0));
  return launch(align_kernel, blocks_for(targets, kThreads), kThreads, stream, source, Extent{sources, sources_count},
                target, Extent{targets, targets_count}, rows);
}

int zg_cuda_split_neighbours_from_parents(const int32_t* parents, int64_t parent_splits,
                                          const int32_t* parent_splits_count, const int32_t* children,
                                          int32_t* split_neighbours, int64_t splits, CUstream_st* stream) {
  ZG_TRY(expect_size("parent_splits", parent_splits, 0, kMaxSplits));
  ZG_TRY(expect_size("splits", splits, 0, kMaxSplits));
  ZG_TRY(expect_pointer("parents", parents, parent_splits > 0));
  ZG_TRY(expect_pointer("children", children, parent_splits > 0));
  ZG_TRY(expect_pointer("split_neighbours", split_neighbours, splits > 0));
  return launch(from_parents_kernel, blocks_for(8 * parent_splits * kTaps, kThreads), kThreads, stream, parents,
                Extent{parent_splits, parent_splits_count}, children, split_neighbours, splits);
}

int zg_cuda_split_neighbours_of_grid(int32_t depth, int64_t objects, const int32_t* children, int32_t* split_neighbours,
                                     int64_t splits, CUstream_st* stream) {
  ZG_TRY(expect_size("depth", depth, 0, kMaxDepth));
  ZG_TRY(expect_size("objects", objects, 0, kMaxRows / kTaps >> (3 * depth)));
  ZG_TRY(expect_size("splits", splits, 0, kMaxSplits));
  const std::int64_t nodes = objects << (3 * depth);
  ZG_TRY(expect_pointer("children", children, nodes > 0));
  ZG_TRY(expect_pointer("split_neighbours", split_neighbours, splits > 0));
  return launch(of_grid_kernel, blocks_for(nodes * kTaps, kThreads), kThreads, stream, depth, objects, children,
                split_neighbours, splits);
}
