// The full grid at the output octree's first depth, reduced to the nodes that can differ from empty space.
//
// A node farther than `radius` steps from every feature sees only zeros through `radius` 3x3x3 convolutions, so its value
// depends on nothing but its distance to the cube's sides, up to `radius`. A (2 radius + 1)^3 grid of virtual nodes
// without features goes through the same layers and stands for all of them.
#include <algorithm>
#include <cstring>

#include "core/octree.h"
#include "core/octree_neighbours.h"

namespace zerograsp {

namespace {

// Coordinate in the virtual grid of coordinate c of a grid of n cells: exact distance to a side, up to r.
inline int virtual_coordinate(int c, int n, int r) { return c < n / 2 ? std::min(c, r) : 2 * r - std::min(n - 1 - c, r); }

}  // namespace

void ActiveGrid::tables(int depth, int radius) {
  if (depth == depth_ && radius == radius_) return;
  depth_ = depth;
  radius_ = radius;
  const int n = 1 << depth, width = 2 * radius + 1;
  cells_ = std::int64_t{1} << (3 * depth);
  virtual_ = n > 2 * radius ? static_cast<std::int64_t>(width) * width * width : 0;
  reserve(linear_, static_cast<std::size_t>(cells_));
  reserve(virtual_of_, static_cast<std::size_t>(cells_));
  for (std::int64_t m = 0; m < cells_; ++m) {
    std::int32_t x, y, z;
    morton_decode(static_cast<std::uint32_t>(m), &x, &y, &z);
    linear_[m] = (x * n + y) * n + z;
    if (virtual_)
      virtual_of_[m] = (virtual_coordinate(x, n, radius) * width + virtual_coordinate(y, n, radius)) * width +
                       virtual_coordinate(z, n, radius);
  }
}

std::int64_t ActiveGrid::mark(const std::int64_t* keys, std::int64_t count, std::int64_t objects, int depth, int radius) {
  tables(depth, radius);
  objects_ = objects;
  count_ = count;
  const int n = 1 << depth;
  const std::size_t nodes = static_cast<std::size_t>(objects * cells_);
  reserve(near_, nodes);
  reserve(first_row_, static_cast<std::size_t>(objects + 1));
  // Without virtual rows every node is a row of its own.
  std::memset(near_.data(), virtual_ ? 0 : 1, nodes);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t object = keys[i] >> kObjectShift, morton = keys[i] & kMortonMask;
    if (object < 0 || object >= objects || morton >= cells_) return i;
    if (!virtual_) continue;
    std::int32_t x, y, z;
    morton_decode(static_cast<std::uint32_t>(morton), &x, &y, &z);
    const int z0 = std::max(z - radius, 0), z1 = std::min(z + radius, n - 1);
    for (int a = std::max(x - radius, 0); a <= std::min(x + radius, n - 1); ++a)
      for (int b = std::max(y - radius, 0); b <= std::min(y + radius, n - 1); ++b)
        std::memset(near_.data() + object * cells_ + (a * n + b) * n + z0, 1, static_cast<std::size_t>(z1 - z0 + 1));
  }
  active_ = 0;
  for (std::int64_t o = 0; o < objects; ++o) {
    first_row_[o] = active_;
    const std::uint8_t* near = near_.data() + o * cells_;
    for (std::int64_t i = 0; i < cells_; ++i) active_ += near[i];
  }
  first_row_[objects] = active_;
  reserve(morton_of_row_, static_cast<std::size_t>(active_));
  return -1;
}

void ActiveGrid::write(const Parallel& parallel, const std::int64_t* keys, std::int32_t* node_rows,
                       std::int32_t* neighbours, std::int32_t* source) {
  const std::int64_t row_count = rows();
  std::fill_n(source, row_count, static_cast<std::int32_t>(count_));
  parallel_for(parallel, static_cast<std::size_t>(objects_), [&](std::size_t o) {
    const std::uint8_t* near = near_.data() + o * cells_;
    std::int32_t* rows = node_rows + o * cells_;
    std::int64_t row = first_row_[o];
    for (std::int64_t m = 0; m < cells_; ++m) {
      if (near[linear_[m]]) {
        morton_of_row_[row] = static_cast<std::uint32_t>(m);
        rows[m] = static_cast<std::int32_t>(row++);
      } else {
        rows[m] = static_cast<std::int32_t>(active_) + virtual_of_[m];
      }
    }
    for (; row > first_row_[o]; --row)  // node_rows holds the whole grid, so it already knows every neighbour's row
      grid_neighbour_ranks(morton_of_row_[row - 1], 1 << depth_, rows, neighbours + row - 1, row_count);
  });
  for (std::int64_t i = 0; i < count_; ++i)
    source[node_rows[(keys[i] >> kObjectShift) * cells_ + (keys[i] & kMortonMask)]] = static_cast<std::int32_t>(i);
  const int width = 2 * radius_ + 1;
  for (std::int64_t cell = 0; cell < virtual_; ++cell)
    for (int tap = 0; tap < kTaps; ++tap) {
      const std::int64_t x = cell / (width * width) + tap / 9 - 1, y = cell / width % width + (tap / 3) % 3 - 1,
                         z = cell % width + tap % 3 - 1;
      const bool inside = x >= 0 && y >= 0 && z >= 0 && x < width && y < width && z < width;
      neighbours[tap * row_count + active_ + cell] =
          inside ? static_cast<std::int32_t>(active_ + (x * width + y) * width + z) : -1;
    }
}

}  // namespace zerograsp
