// Octrees of all objects of a frame from their points.
//
// Points of one object come in raster order, so neighbouring ones often share a voxel: runs of equal keys are collapsed
// before a radix sort of (key, run). From the sorted voxels, the non-empty nodes of each depth are the distinct parents
// of those below. Objects are independent until their counts are known; then everything is written to its final place.
#include "core/octree.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/octree_neighbours.h"

namespace zerograsp {

namespace {

constexpr int kDigitBits = 9;
constexpr std::size_t kBuckets = std::size_t{1} << kDigitBits;

// Stable sort of (key << 32 | payload) by key; the result lies in `runs` or `other`, whichever is returned.
std::uint64_t* radix_sort(std::uint64_t* runs, std::uint64_t* other, std::size_t count, int key_bits) {
  for (int shift = 32; shift < 32 + key_bits; shift += kDigitBits) {
    std::array<std::uint32_t, kBuckets> start{};
    for (std::size_t i = 0; i < count; ++i) ++start[(runs[i] >> shift) & (kBuckets - 1)];
    if (start[(runs[0] >> shift) & (kBuckets - 1)] == count) continue;  // all in one bucket
    std::uint32_t sum = 0;
    for (std::uint32_t& s : start) {
      const std::uint32_t bucket = s;
      s = sum;
      sum += bucket;
    }
    for (std::size_t i = 0; i < count; ++i) other[start[(runs[i] >> shift) & (kBuckets - 1)]++] = runs[i];
    std::swap(runs, other);
  }
  return runs;
}

}  // namespace

std::uint32_t* OctreeBuild::level(std::int64_t object, int depth) {
  // Every depth of an object has room for as many nodes as the object has points.
  return levels_.data() + first_point_[object] * (depth_ - full_depth_ + 1) +
         (depth - full_depth_) * (first_point_[object + 1] - first_point_[object]);
}

std::int64_t OctreeBuild::node_total(int depth) const {
  return depth == full_depth_ ? objects_ << (3 * depth) : 8 * split_total(depth - 1);
}

void OctreeBuild::sort_object(std::int64_t object, const float* points) {
  const std::int64_t first = first_point_[object], last = first_point_[object + 1];
  const float half_cells = static_cast<float>(1 << depth_) * 0.5f;  // [-1, 1) becomes [0, 2^depth)
  const float cells = static_cast<float>(1 << depth_);
  std::uint64_t* runs = runs_.data() + first;
  std::int64_t run_count = 0;
  std::uint32_t previous = ~std::uint32_t{0};  // no cell: those have thirty bits
  bad_point_[object] = -1;
  for (std::int64_t i = first; i < last; ++i) {
    const float x = (points[3 * i] + 1.0f) * half_cells, y = (points[3 * i + 1] + 1.0f) * half_cells,
                z = (points[3 * i + 2] + 1.0f) * half_cells;
    if (!(x >= 0 && x < cells && y >= 0 && y < cells && z >= 0 && z < cells)) {
      bad_point_[object] = i;
      return;
    }
    const std::uint32_t a = static_cast<std::uint32_t>(static_cast<std::int32_t>(x)),
                        b = static_cast<std::uint32_t>(static_cast<std::int32_t>(y)),
                        c = static_cast<std::uint32_t>(static_cast<std::int32_t>(z));
    const std::uint32_t cell = a << 20 | b << 10 | c;
    if (cell != previous) {
      runs[run_count] = static_cast<std::uint64_t>(morton_encode(a, b, c)) << 32 | static_cast<std::uint64_t>(run_count);
      ++run_count;
      previous = cell;
    }
    run_of_point_[i] = static_cast<std::int32_t>(run_count - 1);
  }

  std::uint32_t* voxels = level(object, depth_);
  std::int64_t voxel_count = 0;
  if (run_count > 0) {
    const std::uint64_t* sorted =
        radix_sort(runs, sorted_.data() + first, static_cast<std::size_t>(run_count), 3 * depth_);
    for (std::int64_t i = 0; i < run_count; ++i) {
      const std::uint32_t key = static_cast<std::uint32_t>(sorted[i] >> 32);
      if (voxel_count == 0 || voxels[voxel_count - 1] != key) voxels[voxel_count++] = key;
      const std::int64_t run = static_cast<std::int64_t>(sorted[i] & 0xffffffffu);
      run_voxel_[first + run] = static_cast<std::uint32_t>(voxel_count - 1);
    }
  }
  split_[depth_ * objects_ + object] = voxel_count;
  for (int d = depth_ - 1; d >= full_depth_; --d) {
    const std::uint32_t* below = level(object, d + 1);
    std::uint32_t* nodes = level(object, d);
    const std::int64_t below_count = split_[(d + 1) * objects_ + object];
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < below_count; ++i)
      if (const std::uint32_t parent = below[i] >> 3; count == 0 || nodes[count - 1] != parent) nodes[count++] = parent;
    split_[d * objects_ + object] = count;
  }
  for (int d = 0; d < full_depth_; ++d) split_[d * objects_ + object] = std::int64_t{1} << (3 * d);
}

std::int64_t OctreeBuild::sort(const Parallel& parallel, const float* points, const std::int32_t* counts,
                               std::int64_t objects, int depth, int full_depth) {
  objects_ = objects;
  depth_ = depth;
  full_depth_ = full_depth;
  reserve(first_point_, static_cast<std::size_t>(objects + 1));
  first_point_[0] = 0;
  for (std::int64_t o = 0; o < objects; ++o) first_point_[o + 1] = first_point_[o] + counts[o];
  points_ = first_point_[objects];
  const std::size_t size = static_cast<std::size_t>(points_);
  reserve(runs_, size);
  reserve(sorted_, size);
  reserve(run_voxel_, size);
  reserve(run_of_point_, size);
  reserve(levels_, size * static_cast<std::size_t>(depth - full_depth + 1));
  reserve(split_, static_cast<std::size_t>((depth + 1) * objects));
  reserve(offset_, static_cast<std::size_t>((depth + 1) * (objects + 1)));
  reserve(bad_point_, static_cast<std::size_t>(objects));
  reserve(schedule_, static_cast<std::size_t>(objects));
  std::iota(schedule_.begin(), schedule_.begin() + objects, std::int64_t{0});
  std::sort(schedule_.begin(), schedule_.begin() + objects, [&](std::int64_t a, std::int64_t b) {
    return counts[a] != counts[b] ? counts[a] > counts[b] : a < b;
  });

  parallel_for(parallel, static_cast<std::size_t>(objects), [&](std::size_t i) { sort_object(schedule_[i], points); });

  for (std::int64_t o = 0; o < objects; ++o)
    if (bad_point_[o] >= 0) return bad_point_[o];
  for (int d = 0; d <= depth; ++d) {
    std::int64_t* offset = offset_.data() + d * (objects + 1);
    offset[0] = 0;
    for (std::int64_t o = 0; o < objects; ++o) offset[o + 1] = offset[o] + split_[d * objects + o];
  }
  return -1;
}

void OctreeBuild::write_object(std::int64_t object, std::int64_t* const* keys, std::int32_t* const* children,
                               std::int32_t* voxel) {
  const auto offset = [&](int d) { return offset_[d * (objects_ + 1) + object]; };
  const auto count = [&](int d) { return split_[d * objects_ + object]; };
  {
    const std::int64_t cells = std::int64_t{1} << (3 * full_depth_);
    std::int64_t* key = keys[0] + object * cells;
    std::int32_t* child = children[0] + object * cells;
    for (std::int64_t i = 0; i < cells; ++i) key[i] = object_key(object, static_cast<std::uint32_t>(i));
    std::fill_n(child, cells, -1);
    const std::uint32_t* nodes = level(object, full_depth_);
    const std::int64_t rank = offset(full_depth_);
    for (std::int64_t i = 0; i < count(full_depth_); ++i) child[nodes[i]] = static_cast<std::int32_t>(rank + i);
  }
  for (int d = full_depth_ + 1; d <= depth_; ++d) {
    const std::uint32_t* parents = level(object, d - 1);
    const std::uint32_t* nodes = level(object, d);
    std::int64_t* key = keys[d - full_depth_] + 8 * offset(d - 1);
    std::int32_t* child = children[d - full_depth_] + 8 * offset(d - 1);
    std::int32_t rank = static_cast<std::int32_t>(offset(d));
    for (std::int64_t p = 0, i = 0; p < count(d - 1); ++p, key += 8, child += 8) {
      for (int c = 0; c < 8; ++c) {
        key[c] = object_key(object, parents[p] << 3 | static_cast<std::uint32_t>(c));
        child[c] = -1;
      }
      for (; i < count(d) && nodes[i] >> 3 == parents[p]; ++i) child[nodes[i] & 7] = rank++;
    }
  }
  const std::int64_t first = first_point_[object], last = first_point_[object + 1];
  const std::int32_t first_voxel = static_cast<std::int32_t>(offset(depth_));
  for (std::int64_t i = first; i < last; ++i)
    voxel[i] = first_voxel + static_cast<std::int32_t>(run_voxel_[first + run_of_point_[i]]);
}

void OctreeBuild::write(const Parallel& parallel, std::int64_t* const* keys, std::int32_t* const* children,
                        std::int32_t* const* split_neighbours, std::int32_t* voxel) {
  parallel_for(parallel, static_cast<std::size_t>(objects_),
               [&](std::size_t i) { write_object(schedule_[i], keys, children, voxel); });
  for (int d = full_depth_; d < depth_; ++d) {
    const int level = d - full_depth_;
    if (d == full_depth_)
      split_neighbours_of_grid(parallel, d, objects_, children[level], split_neighbours[level]);
    else
      split_neighbours_from_parents(parallel, split_neighbours[level - 1], split_total(d - 1), children[level],
                                    split_neighbours[level]);
  }
}

}  // namespace zerograsp
