// Depth image and labels to the normalised points of every object, grouped by object in raster order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/label_scan.h"
#include "core/octree.h"

namespace zerograsp {

namespace {
constexpr std::int64_t kRowsPerBlock = 32;
}

void PointScan::scan_rows(Block& block, const float* depth, const std::int32_t* labels, std::int64_t first,
                          std::int64_t last, const Camera& camera, const Cube& cube, std::int32_t* valid_labels) const {
  const float* k = camera.inverse;
  const std::uint32_t objects = static_cast<std::uint32_t>(objects_);
  block.count = 0;
  block.nearest = std::numeric_limits<float>::infinity();
  block.wrong_label = -1;
  for (std::vector<std::int32_t>* counter : {&block.valid, &block.kept, &block.place}) {
    reserve(*counter, objects);
    std::fill(counter->begin(), counter->end(), 0);
  }
  for (std::int64_t v = first; v < last; ++v) {
    reserve(block.label, static_cast<std::size_t>(block.count + width_));
    reserve(block.xyz, static_cast<std::size_t>(3 * (block.count + width_)));
    const std::int32_t* label_row = labels + v * width_;
    const float* depth_row = depth + v * width_;
    if (valid_labels) std::fill_n(valid_labels + v * width_, width_, -1);
    // The published rays are float64 products of the float32 inverse; the summation order is part of the contract.
    const double from_v[3] = {k[1] * static_cast<double>(v), k[4] * static_cast<double>(v), k[7] * static_cast<double>(v)};
    for (std::int64_t u = skip_background(label_row, 0, width_); u < width_; u = skip_background(label_row, u + 1, width_)) {
      const std::int32_t label = label_row[u];
      if (static_cast<std::uint32_t>(label) >= objects) {
        block.wrong_label = label;
        return;
      }
      const float d = depth_row[u];
      if (!(d > cube.min_depth && d <= std::numeric_limits<float>::max())) continue;
      if (valid_labels) valid_labels[v * width_ + u] = label;
      float* point = block.xyz.data() + 3 * block.count;
      for (int axis = 0; axis < 3; ++axis)
        point[axis] = static_cast<float>(((k[3 * axis] * static_cast<double>(u) + from_v[axis]) + k[3 * axis + 2]) * d);
      block.label[static_cast<std::size_t>(block.count++)] = label;
      block.nearest = std::min(block.nearest, point[2]);
      ++block.valid[static_cast<std::size_t>(label)];
    }
  }
}

// In place: normalises the block's points and drops those outside the margin.
void PointScan::normalise(Block& block, const Cube& cube) const {
  const float half = cube.half_extent, high = 1.0f - cube.margin, low = -high;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < block.count; ++i) {
    const float* from = block.xyz.data() + 3 * i;
    const float x = from[0] / half, y = from[1] / half, z = 2.0f * ((from[2] - z_min_) / (2.0f * half) - 0.5f);
    if (!(x > low && x < high && y > low && y < high && z > low && z < high)) continue;
    float* to = block.xyz.data() + 3 * count;
    to[0] = x;
    to[1] = y;
    to[2] = z;
    const std::int32_t label = block.label[static_cast<std::size_t>(i)];
    block.label[static_cast<std::size_t>(count++)] = label;
    ++block.kept[static_cast<std::size_t>(label)];
  }
  block.count = count;
}

bool PointScan::scan(const Parallel& parallel, const float* depth, const std::int32_t* labels, std::int64_t height,
                     std::int64_t width, std::int64_t objects, const Camera& camera, const Cube& cube,
                     std::int32_t* valid_labels) {
  objects_ = objects;
  width_ = width;
  blocks_ = static_cast<std::size_t>((height + kRowsPerBlock - 1) / kRowsPerBlock);
  reserve(block_, blocks_);

  parallel_for(parallel, blocks_, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kRowsPerBlock;
    scan_rows(block_[b], depth, labels, first, std::min(first + kRowsPerBlock, height), camera, cube, valid_labels);
  });
  float nearest = std::numeric_limits<float>::infinity();
  for (std::size_t b = 0; b < blocks_; ++b) {
    if (block_[b].wrong_label != -1) {
      wrong_label_ = block_[b].wrong_label;
      return false;
    }
    nearest = std::min(nearest, block_[b].nearest);
  }
  const float g = cube.grid_size;
  z_min_ = nearest <= std::numeric_limits<float>::max() ? std::floor(nearest / g) * g - 5.0f * g
                                                       : std::numeric_limits<float>::quiet_NaN();
  parallel_for(parallel, blocks_, [&](std::size_t b) { normalise(block_[b], cube); });

  std::int32_t place = 0;  // objects one after the other, blocks in order within each
  for (std::int64_t o = 0; o < objects; ++o)
    for (std::size_t b = 0; b < blocks_; ++b) {
      block_[b].place[o] = place;
      place += block_[b].kept[o];
    }
  points_ = place;
  return true;
}

void PointScan::write(const Parallel& parallel, float* points, std::int32_t* counts, std::int32_t* valid_counts) {
  parallel_for(parallel, blocks_, [&](std::size_t b) {
    Block& block = block_[b];
    for (std::int64_t i = 0; i < block.count; ++i)
      std::memcpy(points + 3 * static_cast<std::int64_t>(block.place[block.label[static_cast<std::size_t>(i)]]++),
                  block.xyz.data() + 3 * i, 3 * sizeof(float));
  });
  for (std::int64_t o = 0; o < objects_; ++o) {
    counts[o] = valid_counts[o] = 0;
    for (std::size_t b = 0; b < blocks_; ++b) {
      counts[o] += block_[b].kept[o];
      valid_counts[o] += block_[b].valid[o];
    }
  }
}

}  // namespace zerograsp
