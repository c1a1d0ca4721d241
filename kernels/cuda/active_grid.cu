// The full grid at the output octree's first depth, reduced to the nodes that can differ from empty space; the CPU's kernel
// (cpu/octree_active_grid.cpp) says why they are enough.
//
// Keys mark the nodes around them, the marked nodes get rows (cuda/split.h), the others share the virtual ones.
#include "core/octree_neighbours.h"
#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int32_t kMaxGridDepth = 7;
constexpr std::size_t kAlignment = 256;

struct Grids {
  std::int64_t objects;
  int depth, radius;

  __device__ __forceinline__ int side() const { return 1 << depth; }
  __device__ __forceinline__ int width() const { return 2 * radius + 1; }
  __device__ __forceinline__ std::int64_t cells() const { return std::int64_t{1} << (3 * depth); }
  // Node of a key, -1 outside the grids.
  __device__ __forceinline__ std::int64_t node(std::int64_t key) const {
    const std::int64_t object = key >> kObjectShift, morton = key & kMortonMask;
    return object < 0 || object >= objects || morton >= cells() ? -1 : object * cells() + morton;
  }
  // Coordinate in the virtual grid: the exact distance to a side, up to the radius.
  __device__ __forceinline__ int virtual_coordinate(int c) const {
    const int n = side(), behind = n - 1 - c;
    return c < n / 2 ? (c < radius ? c : radius) : 2 * radius - (behind < radius ? behind : radius);
  }
};

struct Marked {
  const std::uint8_t* marks;
  __device__ __forceinline__ bool operator()(std::int64_t node, bool*, std::int32_t*) const { return marks[node] != 0; }
};

// One thread per key and column of the cube around it; several may write the same 1.
__global__ void __launch_bounds__(kThreads) mark_kernel(const std::int64_t* keys, Extent n, const Grids grids, int columns,
                                                        std::uint8_t* marks, std::int32_t* status) {
  const auto at = static_cast<std::uint32_t>(global_thread());  // kMaxRows: no 64-bit division
  const std::uint32_t i = at / static_cast<std::uint32_t>(columns);
  if (i >= n.size()) return;
  const int column = static_cast<int>(at % static_cast<std::uint32_t>(columns)), width = grids.width(), side = grids.side();
  const std::int64_t node = grids.node(keys[i]);
  if (node < 0) {
    if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgKeyOutOfRange));
    return;
  }
  if (marks == nullptr) return;  // every node has a row of its own
  const std::int64_t first = node & ~(grids.cells() - 1);
  std::int32_t x, y, z;
  morton_decode(static_cast<std::uint32_t>(node - first), &x, &y, &z);
  x += column / width - grids.radius, y += column % width - grids.radius;
  if (x < 0 || y < 0 || x >= side || y >= side) return;
  const std::uint32_t bits = morton_encode(static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y), 0);
  for (int k = z - grids.radius; k <= z + grids.radius; ++k)
    if (k >= 0 && k < side) marks[first + (bits | spread_bits(static_cast<std::uint32_t>(k)))] = 1;
}

// Nodes without a row of their own get their virtual one.
__global__ void __launch_bounds__(kThreads) share_kernel(const Grids grids, std::int64_t virtual_rows, const SplitCounts* active,
                                                         std::int32_t* rows, std::int32_t* counts) {
  const std::int64_t node = global_thread();
  if (node == 0) {
    counts[0] = active->splits + static_cast<std::int32_t>(virtual_rows), counts[1] = active->splits;
    counts[2] = counts[3] = 0;
  }
  if (node >= grids.objects * grids.cells() || rows[node] >= 0) return;
  std::int32_t at[3];
  morton_decode(static_cast<std::uint32_t>(node & (grids.cells() - 1)), &at[0], &at[1], &at[2]);
  std::int32_t cell = 0;
  for (int axis = 0; axis < 3; ++axis) cell = cell * grids.width() + grids.virtual_coordinate(at[axis]);
  rows[node] = active->splits + cell;
}

// One thread per row: its neighbours, and no key yet.
__global__ void __launch_bounds__(kThreads)
    neighbours_kernel(const Grids grids, Extent keys, const std::int32_t* counts, const std::int32_t* node_of_row,
                      const std::int32_t* rows, std::int64_t max_rows, bool packed, std::int32_t* neighbours,
                      std::int32_t* source) {
  const std::int64_t row = global_thread(), size = counts[0], active = counts[1];
  if (row >= size) return;
  const std::int64_t stride = packed ? size : max_rows;
  source[row] = static_cast<std::int32_t>(keys.size());
  if (row < active) {
    const std::int64_t node = node_of_row[row], first = node & ~(grids.cells() - 1);
    grid_neighbour_ranks(static_cast<std::uint32_t>(node - first), grids.side(), rows + first, neighbours + row, stride);
    return;
  }
  const int width = grids.width(), cell = static_cast<int>(row - active);
  const int x = cell / (width * width), y = cell / width % width, z = cell % width;
  for (int tap = 0; tap < kTaps; ++tap) {
    const int a = x + tap / 9 - 1, b = y + tap / 3 % 3 - 1, c = z + tap % 3 - 1;
    const bool inside = a >= 0 && b >= 0 && c >= 0 && a < width && b < width && c < width;
    neighbours[tap * stride + row] = inside ? static_cast<std::int32_t>(active + (a * width + b) * width + c) : -1;
  }
}

__global__ void __launch_bounds__(kThreads) source_kernel(const std::int64_t* keys, Extent n, const Grids grids,
                                                          const std::int32_t* rows, const std::int32_t* counts,
                                                          std::int32_t* source) {
  const std::int64_t i = global_thread();
  if (i >= n.size()) return;
  const std::int64_t node = grids.node(keys[i]);
  if (node >= 0 && rows[node] < counts[1]) source[rows[node]] = static_cast<std::int32_t>(i);
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

size_t zg_cuda_active_grid_workspace(int32_t objects, int32_t depth) {
  if (objects < 1 || depth < 0 || depth > kMaxGridDepth) return 0;
  const std::int64_t nodes = static_cast<std::int64_t>(objects) << (3 * depth);
  return kAlignment + aligned(static_cast<std::size_t>(nodes)) + aligned(sizeof(std::int32_t) * static_cast<std::size_t>(nodes)) +
         aligned(zg_cuda_grow_workspace(nodes));
}

int zg_cuda_active_grid(const int64_t* keys, int64_t n, const int32_t* n_count, int32_t objects, int32_t depth, int32_t radius,
                        int32_t* rows, int32_t* neighbours, int32_t* source, int64_t max_rows, int32_t packed, int32_t* counts,
                        int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("depth", depth, 1, kMaxGridDepth));
  ZG_TRY(expect_size("objects", objects, 1, 32767));
  ZG_TRY(expect_size("radius", radius, 0, 64));
  const std::int64_t nodes = static_cast<std::int64_t>(objects) << (3 * depth), side = std::int64_t{1} << depth;
  const std::int64_t width = 2 * radius + 1, virtual_rows = side > 2 * radius ? width * width * width : 0;
  const std::int64_t columns = virtual_rows > 0 ? width * width : 1;
  ZG_TRY(expect_size("nodes of the full grids", nodes, 1, kMaxRows / kTaps));
  ZG_TRY(expect_size("keys", n, 0, kMaxRows / columns));
  ZG_TRY(expect_size("max_rows", max_rows, virtual_rows > 0 ? virtual_rows + 1 : nodes, kMaxRows / kTaps));
  ZG_TRY(expect_pointer("keys", keys, n > 0));
  ZG_TRY(expect_pointer("rows", rows, true));
  ZG_TRY(expect_pointer("neighbours", neighbours, true));
  ZG_TRY(expect_pointer("source", source, true));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_active_grid_workspace(objects, depth)));
  char* scratch = static_cast<char*>(workspace);
  const auto take = [&](std::size_t bytes) {
    char* here = scratch;
    scratch += aligned(bytes);
    return here;
  };
  auto* active = reinterpret_cast<SplitCounts*>(take(sizeof(SplitCounts)));
  auto* marks = reinterpret_cast<std::uint8_t*>(take(static_cast<std::size_t>(nodes)));
  auto* node_of_row = reinterpret_cast<std::int32_t*>(take(sizeof(std::int32_t) * static_cast<std::size_t>(nodes)));
  auto* block_counts = reinterpret_cast<std::int32_t*>(scratch);
  const Grids grids = {objects, depth, radius};
  const Extent with_features = {n, n_count}, all = {nodes, nullptr};
  const std::int64_t max_active = max_rows - virtual_rows;
  const SplitOutputs out = {nullptr, nullptr, rows, node_of_row, nullptr, max_active < nodes ? max_active : nodes};

  // Without virtual rows every node is a row of its own.
  ZG_TRY(cudaMemsetAsync(marks, virtual_rows > 0 ? 0 : 1, static_cast<std::size_t>(nodes), stream));
  ZG_TRY(launch(mark_kernel, blocks_for(n * columns, kThreads), kThreads, stream, keys, with_features, grids,
                static_cast<int>(columns), virtual_rows > 0 ? marks : nullptr, status));
  ZG_TRY(split_nodes(Marked{marks}, all, false, out, active, status, block_counts, stream, kZgRowsExceeded));
  ZG_TRY(launch(share_kernel, blocks_for(nodes, kThreads), kThreads, stream, grids, virtual_rows,
                static_cast<const SplitCounts*>(active), rows, counts));
  ZG_TRY(launch(neighbours_kernel, blocks_for(max_rows, kThreads), kThreads, stream, grids, with_features,
                static_cast<const std::int32_t*>(counts), static_cast<const std::int32_t*>(node_of_row),
                static_cast<const std::int32_t*>(rows), max_rows, packed != 0, neighbours, source));
  return launch(source_kernel, blocks_for(n, kThreads), kThreads, stream, keys, with_features, grids,
                static_cast<const std::int32_t*>(rows), static_cast<const std::int32_t*>(counts), source);
}
