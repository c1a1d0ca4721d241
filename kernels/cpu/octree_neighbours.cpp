// Neighbour tables: expansion of a depth's from its parents', and the split nodes' own.
#include "core/octree_neighbours.h"

#include <algorithm>
#include <cstring>

#include "core/octree.h"

namespace zerograsp {

namespace {

constexpr std::int64_t kParentsPerBlock = 2048;  // some 0.1 ms of work: less is not worth waking a thread

// The 4 x 4 x 4 nodes around and including the children of one split node. Unrolled, so that the tables become constants.
inline void fill_cells(const std::int32_t* parents, std::int32_t* cells) {
#pragma GCC unroll 64
  for (int cell = 0; cell < kCells; ++cell) cells[cell] = cell_node(parents[cell_direction(cell)], cell_child(cell));
}

template <class F>
void parallel_blocks(const Parallel& parallel, std::int64_t count, std::int64_t block, F&& body) {
  parallel_for(parallel, static_cast<std::size_t>((count + block - 1) / block), [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * block;
    body(first, std::min(first + block, count));
  });
}

}  // namespace

void expand_neighbours(const Parallel& parallel, const std::int32_t* split_neighbours, std::int64_t split_count,
                       const std::int32_t* rank, std::int32_t* neighbours) {
  const std::int64_t nodes = 8 * split_count;
  parallel_blocks(parallel, split_count, kParentsPerBlock, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t s = first; s < last; ++s) {
      std::int32_t cells[kCells];
      fill_cells(split_neighbours + s * kTaps, cells);
      if (rank)
        for (std::int32_t& cell : cells) cell = cell < 0 ? -1 : rank[cell];
      std::int32_t* out = neighbours + 8 * s;
#pragma GCC unroll 27
      for (int tap = 0; tap < kTaps; ++tap, out += nodes) {
        const std::int32_t* corner = cells + neighbour_cell(0, tap);
        std::memcpy(out, corner, 8);  // siblings 0, 1 and so on lie side by side along z
        std::memcpy(out + 2, corner + 4, 8);
        std::memcpy(out + 4, corner + 16, 8);
        std::memcpy(out + 6, corner + 20, 8);
      }
    }
  });
}

void split_neighbours_from_parents(const Parallel& parallel, const std::int32_t* parents, std::int64_t parent_count,
                                   const std::int32_t* children, std::int32_t* split_neighbours) {
  parallel_blocks(parallel, parent_count, kParentsPerBlock, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t s = first; s < last; ++s) {
      std::int32_t cells[kCells];
      fill_cells(parents + s * kTaps, cells);
      for (std::int32_t& cell : cells) cell = cell < 0 ? -1 : children[cell];
      for (int child = 0; child < 8; ++child) {
        const std::int32_t rank = children[8 * s + child];
        if (rank < 0) continue;
        std::int32_t* out = split_neighbours + static_cast<std::int64_t>(rank) * kTaps;
#pragma GCC unroll 9
        for (int tap = 0; tap < kTaps; tap += 3) std::memcpy(out + tap, cells + neighbour_cell(child, tap), 12);
      }
    }
  });
}

void split_neighbours_of_grid(const Parallel& parallel, int depth, std::int64_t objects, const std::int32_t* children,
                              std::int32_t* split_neighbours) {
  const std::int64_t cells = std::int64_t{1} << (3 * depth);
  parallel_blocks(parallel, objects * cells, 4096, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t node = first; node < last; ++node) {
      if (children[node] < 0) continue;
      const std::int32_t* grid = children + node / cells * cells;
      grid_neighbour_ranks(static_cast<std::uint32_t>(node % cells), 1 << depth, grid,
                           split_neighbours + static_cast<std::int64_t>(children[node]) * kTaps, 1);
    }
  });
}

}  // namespace zerograsp
