// Depth image and labels to the normalised points of every object, grouped by object in raster order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/label_scan.h"
#include "core/octree.h"

namespace zerograsp {

namespace {
constexpr std::int64_t kRowsPerBlock = 32;
}

void PointScan::scan_rows(Block& block, const float* depth, const std::int32_t* labels, std::int64_t first,
                          std::int64_t last, const Camera& camera, const Cube& cube, std::int32_t* valid_labels) const {
  const std::uint32_t objects = static_cast<std::uint32_t>(objects_);
  block.count = block.span_count = 0;
  block.nearest = std::numeric_limits<float>::infinity();
  block.wrong_label = -1;
  reserve(block.column, static_cast<std::size_t>(width_));
  for (std::vector<std::int32_t>* counter : {&block.valid, &block.kept, &block.place}) {
    reserve(*counter, objects);
    std::fill(counter->begin(), counter->end(), 0);
  }
  for (std::int64_t v = first; v < last; ++v) {
    const std::size_t room = static_cast<std::size_t>(block.count + width_);
    for (std::vector<float>* axis : {&block.x, &block.y, &block.z}) reserve(*axis, room);
    reserve(block.spans, static_cast<std::size_t>(block.span_count + width_));
    const std::int32_t* label_row = labels + v * width_;
    const float* depth_row = depth + v * width_;
    std::int32_t* column = block.column.data();
    std::int64_t found = 0;
    if (valid_labels) std::fill_n(valid_labels + v * width_, width_, -1);
    for (std::int64_t u = skip_background(label_row, 0, width_); u < width_;) {
      const std::int32_t label = label_row[u];
      if (static_cast<std::uint32_t>(label) >= objects) {
        block.wrong_label = label;
        return;
      }
      const std::int64_t end = skip_equal(label_row, u, width_), before = found;
      for (; u < end; ++u) {
        column[found] = static_cast<std::int32_t>(u);
        found += depth_row[u] > cube.min_depth && depth_row[u] <= std::numeric_limits<float>::max();
      }
      if (valid_labels)
        for (std::int64_t i = before; i < found; ++i) valid_labels[v * width_ + column[i]] = label;
      if (found > before) {
        block.spans[block.span_count++] = {label, static_cast<std::int32_t>(found - before)};
        block.valid[label] += static_cast<std::int32_t>(found - before);
      }
      u = skip_background(label_row, end, width_);
    }
    // The published rays are float64 products of the float32 inverse; the summation order is part of the contract.
    float* axes[3] = {block.x.data() + block.count, block.y.data() + block.count, block.z.data() + block.count};
    for (int axis = 0; axis < 3; ++axis) {
      const double k = camera.inverse[3 * axis], from_v = camera.inverse[3 * axis + 1] * static_cast<double>(v),
                   constant = camera.inverse[3 * axis + 2];
      float* to = axes[axis];
      for (std::int64_t i = 0; i < found; ++i)
        to[i] = static_cast<float>(((k * column[i] + from_v) + constant) * depth_row[column[i]]);
    }
    for (std::int64_t i = 0; i < found; ++i) block.nearest = std::min(block.nearest, axes[2][i]);
    block.count += found;
  }
}

// In place: normalises the block's points and drops those outside the margin.
void PointScan::normalise(Block& block, const Cube& cube) const {
  const float half = cube.half_extent, edge = 2.0f * half, high = 1.0f - cube.margin, low = -high, near = z_min_;
  float *x = block.x.data(), *y = block.y.data(), *z = block.z.data();
  std::int32_t inside = 0;
  for (std::int64_t i = 0; i < block.count; ++i) {
    x[i] = x[i] / half;
    y[i] = y[i] / half;
    z[i] = 2.0f * ((z[i] - near) / edge - 0.5f);
    inside += (x[i] > low) & (x[i] < high) & (y[i] > low) & (y[i] < high) & (z[i] > low) & (z[i] < high);
  }
  if (inside < block.count) {
    std::int64_t from = 0, to = 0;
    for (std::int64_t s = 0; s < block.span_count; ++s) {
      const std::int64_t end = from + block.spans[s].count, before = to;
      for (; from < end; ++from)
        if (x[from] > low && x[from] < high && y[from] > low && y[from] < high && z[from] > low && z[from] < high) {
          x[to] = x[from];
          y[to] = y[from];
          z[to] = z[from];
          ++to;
        }
      block.spans[s].count = static_cast<std::int32_t>(to - before);
    }
    block.count = to;
  }
  for (std::int64_t s = 0; s < block.span_count; ++s) block.kept[block.spans[s].label] += block.spans[s].count;
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
  z_min_ = nearest <= std::numeric_limits<float>::max() ? std::floor(nearest / g) * g - cube.z_margin * g
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
    const float *x = block.x.data(), *y = block.y.data(), *z = block.z.data();
    for (std::int64_t s = 0; s < block.span_count; ++s) {
      const std::int32_t count = block.spans[s].count;
      std::int32_t& place = block.place[block.spans[s].label];
      float* to = points + 3 * static_cast<std::int64_t>(place);
      for (std::int32_t i = 0; i < count; ++i, to += 3) {
        to[0] = *x++;
        to[1] = *y++;
        to[2] = *z++;
      }
      place += count;
    }
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
