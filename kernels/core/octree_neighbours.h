// Neighbours of octree nodes without search: every node with children has all eight, so the nodes around eight siblings
// follow from the ranks of the 27 parents around theirs.
//
// The siblings and everything next to them fill a cube of 4 x 4 x 4 nodes. Along one axis its cells are at -1, 0, 1, 2
// from the first sibling; they belong to the parents at -1, 0, 0, +1 and are their children 1, 0, 1, 0. Neighbour
// (dx, dy, dz) of sibling (x, y, z), d counted from 0, is cell (x + dx, y + dy, z + dz).
#pragma once
#include <cstdint>

#include "core/morton.h"

namespace zerograsp {

constexpr int kTaps = 27;  // directions (dx, dy, dz), z fastest; 13 is the node itself
constexpr int kCells = 64;

// Direction 0..26 of the parent that owns a cell, and which of its children the cell is.
ZG_HD int cell_direction(int cell) {
  const int x = cell >> 4, y = (cell >> 2) & 3, z = cell & 3;
  return ((x + 1) >> 1) * 9 + ((y + 1) >> 1) * 3 + ((z + 1) >> 1);
}

ZG_HD int cell_child(int cell) {
  const int x = cell >> 4, y = (cell >> 2) & 3, z = cell & 3;
  return ((x + 1) & 1) << 2 | ((y + 1) & 1) << 1 | ((z + 1) & 1);
}

// Cell of neighbour `tap` of sibling `child`.
ZG_HD int neighbour_cell(int child, int tap) {
  const int x = (child >> 2) + tap / 9, y = ((child >> 1) & 1) + (tap / 3) % 3, z = (child & 1) + tap % 3;
  return x << 4 | y << 2 | z;
}

// Node of a cell: child of a parent of rank `parent`; -1 when there is no such parent.
ZG_HD std::int32_t cell_node(std::int32_t parent, int child) {
  return (parent * 8 + child) | (parent >> 31);
}

// Node at direction `tap` of child `child`, from the ranks of the 27 parents around its own: one GPU thread's work.
ZG_HD std::int32_t neighbour_node(const std::int32_t* parents, int child, int tap) {
  const int cell = neighbour_cell(child, tap);
  return cell_node(parents[cell_direction(cell)], cell_child(cell));
}

// Rank of a split node's neighbour at direction `tap`: the same, passed through `children` of the nodes' own depth.
ZG_HD std::int32_t neighbour_rank(const std::int32_t* parents, const std::int32_t* children, int child, int tap) {
  const std::int32_t node = neighbour_node(parents, child, tap);
  return node < 0 ? -1 : children[node];
}

// Rank of the neighbour of a node of a full grid (n = 2^depth cells along an axis); `children` are the grid's own.
ZG_HD std::int32_t grid_neighbour_rank(std::uint32_t morton, int n, const std::int32_t* children, int tap) {
  std::int32_t x, y, z;
  morton_decode(morton, &x, &y, &z);
  x += tap / 9 - 1;
  y += (tap / 3) % 3 - 1;
  z += tap % 3 - 1;
  if (x < 0 || y < 0 || z < 0 || x >= n || y >= n || z >= n) return -1;
  return children[morton_encode(x, y, z)];
}

// All 27 of them, `stride` apart; the coordinates' bits are spread once.
ZG_HD void grid_neighbour_ranks(std::uint32_t morton, int n, const std::int32_t* children, std::int32_t* out,
                                       std::int64_t stride) {
  std::int32_t at[3];
  morton_decode(morton, &at[0], &at[1], &at[2]);
  std::int64_t bits[3][3];  // per axis and step: the spread coordinate, or -1 outside
  for (int axis = 0; axis < 3; ++axis)
    for (int step = 0; step < 3; ++step) {
      const std::int32_t c = at[axis] + step - 1;
      bits[axis][step] =
          c < 0 || c >= n ? -1 : static_cast<std::int64_t>(spread_bits(static_cast<std::uint32_t>(c)) << (2 - axis));
    }
  for (int x = 0; x < 3; ++x)
    for (int y = 0; y < 3; ++y)
      for (int z = 0; z < 3; ++z, out += stride) {
        const std::int64_t node = bits[0][x] | bits[1][y] | bits[2][z];  // -1 if any is
        *out = node < 0 ? -1 : children[node];
      }
}

// Node splits when channel 1 beats channel 0; a tie and NaN leave it empty (published: argmax).
ZG_HD bool splits(const float* logits) { return logits[1] > logits[0]; }

// Row of `key` in ascending `keys`, -1 if it is not there.
ZG_HD std::int32_t find_key(const std::int64_t* keys, std::int64_t count, std::int64_t key) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (keys[middle] < key) low = middle + 1; else high = middle;
  }
  return low < count && keys[low] == key ? static_cast<std::int32_t>(low) : -1;
}

}  // namespace zerograsp
