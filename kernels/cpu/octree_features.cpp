// Features of the finest non-empty voxels: where the averaged point lies in its voxel, and the average of the image
// features at its points.
//
// The average of bilinear samples is linear in the image, so each voxel gets its weights first: its points touch a few
// neighbouring pixels, held as segments of four pixels of a row. Then every channel plane is read once, four planes at a
// time, with one multiply-add per segment; a plane's touched part stays in cache.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/octree.h"

namespace zerograsp {

namespace {

using Vector = float __attribute__((vector_size(16)));

constexpr std::int64_t kVoxelsPerBlock = 1024;
constexpr int kLanes = 4;
constexpr int kPatchRows = 16, kPatchColumns = 16;  // a voxel whose points spread wider keeps each point's own segments

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline float total(Vector v) { return (v[0] + v[1]) + (v[2] + v[3]); }

}  // namespace

void VoxelFeatures::plan_voxel(std::int64_t voxel, const Projection& projection, std::int64_t padded_width) {
  const std::int64_t first = start_[voxel], last = start_[voxel + 1], width = projection.width, height = projection.height;
  const float share = 1.0f / static_cast<float>(last - first);
  Segment* segments = segments_.data() + 2 * first;
  std::int32_t count = 0;

  // The pixels around a position, clipped to the image: false when none is inside.
  const auto corner = [&](std::int64_t i, std::int64_t* x, std::int64_t* y) {
    if (!(column_[i] > -1.0f && column_[i] < static_cast<float>(width) && row_[i] > -1.0f &&
          row_[i] < static_cast<float>(height)))
      return false;
    *x = static_cast<std::int64_t>(std::floor(column_[i]));
    *y = static_cast<std::int64_t>(std::floor(row_[i]));
    return true;
  };
  const auto weigh = [&](std::int64_t i, std::int64_t x, std::int64_t y, float weight[2][2]) {
    const float right = column_[i] - static_cast<float>(x), left = static_cast<float>(x + 1) - column_[i];
    const float below = row_[i] - static_cast<float>(y), above = static_cast<float>(y + 1) - row_[i];
    weight[0][0] = left * above * share;
    weight[0][1] = right * above * share;
    weight[1][0] = left * below * share;
    weight[1][1] = right * below * share;
  };
  // Segment of the row y that holds columns x .. x + n - 1 (n <= 4); it moves left where it would leave the map.
  const auto emit = [&](std::int64_t y, std::int64_t x, int n, const float* weight) {
    const std::int64_t begin = std::min(std::max<std::int64_t>(x, 0), padded_width - kLanes);
    Segment segment{};
    bool any = false;
    for (int k = 0; k < n; ++k)
      if (x + k >= 0 && x + k < width && weight[k] != 0.0f) {
        segment.weight[x + k - begin] = weight[k];
        any = true;
      }
    if (!any || y < 0 || y >= height) return;
    segment.offset = static_cast<std::int32_t>(y * padded_width + begin);
    segments[count++] = segment;
  };

  std::int64_t left = width, right = -2, top = height, bottom = -2, x, y;
  for (std::int64_t i = first; i < last; ++i)
    if (corner(i, &x, &y)) {
      left = std::min(left, x);
      right = std::max(right, x + 1);
      top = std::min(top, y);
      bottom = std::max(bottom, y + 1);
    }
  if (right >= left) {
    const std::int64_t columns = right - left + 1, rows = bottom - top + 1;
    float weight[2][2];
    if (rows <= kPatchRows && columns <= kPatchColumns && rows * ((columns + kLanes - 1) / kLanes) <= 2 * (last - first)) {
      float patch[kPatchRows][kPatchColumns] = {};
      for (std::int64_t i = first; i < last; ++i)
        if (corner(i, &x, &y)) {
          weigh(i, x, y, weight);
          for (int dy = 0; dy < 2; ++dy)
            for (int dx = 0; dx < 2; ++dx) patch[y - top + dy][x - left + dx] += weight[dy][dx];
        }
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; c += kLanes)
          emit(top + r, left + c, static_cast<int>(std::min<std::int64_t>(kLanes, columns - c)), patch[r] + c);
    } else {
      for (std::int64_t i = first; i < last; ++i)
        if (corner(i, &x, &y)) {
          weigh(i, x, y, weight);
          emit(y, x, 2, weight[0]);
          emit(y + 1, x, 2, weight[1]);
        }
    }
  }
  segment_count_[voxel] = count;
}

bool VoxelFeatures::run(const Parallel& parallel, const float* points, const std::int32_t* voxel, std::int64_t count,
                        std::int64_t voxels, int depth, const float* features, std::int64_t channels,
                        std::int64_t padded_height, std::int64_t padded_width, const Projection& projection, float* out) {
  // Points by voxel, in raster order within each.
  reserve(start_, static_cast<std::size_t>(voxels + 2));
  reserve(order_, static_cast<std::size_t>(count));
  reserve(column_, static_cast<std::size_t>(count));
  reserve(row_, static_cast<std::size_t>(count));
  reserve(segment_count_, static_cast<std::size_t>(voxels));
  if (channels > 0) reserve(segments_, static_cast<std::size_t>(2 * count));
  std::fill_n(start_.begin(), voxels + 2, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    if (voxel[i] < 0 || voxel[i] >= voxels) return false;
    ++start_[voxel[i] + 2];
  }
  for (std::int64_t v = 0; v < voxels; ++v) {
    if (start_[v + 2] == 0) return false;
    start_[v + 2] += start_[v + 1];
  }
  for (std::int64_t i = 0; i < count; ++i) order_[start_[voxel[i] + 1]++] = static_cast<std::int32_t>(i);

  const std::int64_t row_length = 3 + channels;
  const float half_cells = static_cast<float>(1 << depth) * 0.5f;
  const std::size_t blocks = static_cast<std::size_t>((voxels + kVoxelsPerBlock - 1) / kVoxelsPerBlock);
  const float* k = projection.intrinsics;
  const float half = projection.half_extent, w = static_cast<float>(projection.width),
              h = static_cast<float>(projection.height);
  parallel_for(parallel, blocks, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kVoxelsPerBlock, last = std::min(first + kVoxelsPerBlock, voxels);
    for (std::int64_t v = first; v < last; ++v) {
      float sum[3] = {0, 0, 0};
      for (std::int64_t i = start_[v]; i < start_[v + 1]; ++i) {
        const float* p = points + 3 * static_cast<std::int64_t>(order_[i]);
        for (int axis = 0; axis < 3; ++axis) sum[axis] += (p[axis] + 1.0f) * half_cells;
        if (channels == 0) continue;
        const float x = p[0] * half, y = p[1] * half, z = (p[2] * 0.5f + 0.5f) * (2.0f * half) + projection.z_min;
        const float scale = (k[6] * x + k[7] * y + k[8] * z) + 1e-4f;
        const float u = 2.0f * ((k[0] * x + k[1] * y + k[2] * z) / scale / w - 0.5f);
        const float t = 2.0f * ((k[3] * x + k[4] * y + k[5] * z) / scale / h - 0.5f);
        column_[i] = (u + 1.0f) * 0.5f * (w - 1.0f);  // align_corners
        row_[i] = (t + 1.0f) * 0.5f * (h - 1.0f);
      }
      const float points_here = static_cast<float>(start_[v + 1] - start_[v]);
      for (int axis = 0; axis < 3; ++axis) {
        const float mean = sum[axis] / points_here;
        out[v * row_length + axis] = (mean - std::trunc(mean)) - 0.5f;
      }
      if (channels > 0) plan_voxel(v, projection, padded_width);
    }
  });

  const std::int64_t plane = padded_height * padded_width, groups = (channels + kLanes - 1) / kLanes;
  parallel_for(parallel, static_cast<std::size_t>(groups) * blocks, [&](std::size_t task) {
    const std::int64_t channel = static_cast<std::int64_t>(task / blocks) * kLanes;
    const int lanes = static_cast<int>(std::min<std::int64_t>(kLanes, channels - channel));
    const float* planes[kLanes];
    for (int c = 0; c < kLanes; ++c) planes[c] = features + (channel + std::min(c, lanes - 1)) * plane;
    const std::int64_t first = static_cast<std::int64_t>(task % blocks) * kVoxelsPerBlock;
    for (std::int64_t v = first; v < std::min(first + kVoxelsPerBlock, voxels); ++v) {
      Vector sum[kLanes] = {};
      const Segment* segment = segments_.data() + 2 * static_cast<std::int64_t>(start_[v]);
      for (std::int32_t s = 0; s < segment_count_[v]; ++s, ++segment) {
        const Vector weight = load(segment->weight);
        for (int c = 0; c < kLanes; ++c) sum[c] += weight * load(planes[c] + segment->offset);
      }
      float* to = out + v * row_length + 3 + channel;
      for (int c = 0; c < lanes; ++c) to[c] = total(sum[c]);
    }
  });
  return true;
}

}  // namespace zerograsp
