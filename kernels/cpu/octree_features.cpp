// Features of the finest non-empty voxels: where the averaged point lies in its voxel, and the average of the image
// features at its points.
//
// The average of bilinear samples is linear in the image, so each voxel gets its weights first: its points touch a few
// neighbouring pixels, held as segments of four pixels of a row. Then every channel plane is read once, eight planes at a
// time, with one multiply-add per segment; a plane's touched part stays in cache.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/octree.h"

namespace zerograsp {

namespace {

using Vector = float __attribute__((vector_size(16)));

constexpr std::int64_t kVoxelsPerBlock = 1024;
constexpr int kLanes = 4;   // pixels of a segment
constexpr int kPlanes = 8;  // channels of a pass
constexpr int kAhead = 12;  // segments to prefetch ahead: a voxel's pixels are nowhere near the next one's in memory
constexpr int kPatchRows = 8, kPatchColumns = 8;  // a voxel whose points spread wider keeps each point's own segments

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The four vectors' sums.
inline Vector totals(Vector a, Vector b, Vector c, Vector d) {
#if defined(__clang__) || __GNUC__ >= 12
  const Vector ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vector cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#else
  const auto total = [](Vector v) { return (v[0] + v[2]) + (v[1] + v[3]); };
  return Vector{total(a), total(b), total(c), total(d)};
#endif
}

}  // namespace

// Weights of the pixels that a voxel's samples touch; returns the number of segments, at most two per sample.
std::int64_t VoxelFeatures::plan_voxel(const Sample* samples, std::int64_t count, const Projection& projection,
                                       std::int64_t padded_width, Segment* segments) const {
  const std::int32_t width = static_cast<std::int32_t>(projection.width), height = static_cast<std::int32_t>(projection.height);
  const std::int32_t last_begin = static_cast<std::int32_t>(padded_width) - kLanes;
  std::int64_t segment_count = 0;
  // Columns x .. x + n - 1 (n <= 4) of row y; a segment that would leave the map moves left. Zero padding: what lies
  // outside the image weighs nothing.
  const auto emit = [&](std::int32_t y, std::int32_t x, int n, const float* weight) {
    if (y < 0 || y >= height) return;
    const std::int32_t begin = std::min(std::max(x, 0), last_begin);
    Segment& segment = segments[segment_count++];
    segment = {};
    segment.offset = static_cast<std::int32_t>(y * padded_width) + begin;
    for (int k = 0; k < n; ++k)
      if (x + k >= 0 && x + k < width) segment.weight[x + k - begin] = weight[k];
  };

  std::int32_t left = width, right = -2, top = height, bottom = -2;
  for (std::int64_t i = 0; i < count; ++i) {
    if (samples[i].share == 0.0f) continue;
    left = std::min(left, samples[i].x);
    right = std::max(right, samples[i].x + 1);
    top = std::min(top, samples[i].y);
    bottom = std::max(bottom, samples[i].y + 1);
  }
  const std::int32_t columns = right - left + 1, rows = bottom - top + 1;
  const std::int32_t row_segments = (columns + kLanes - 1) / kLanes;
  const bool patch_fits = rows <= kPatchRows && columns <= kPatchColumns && rows * row_segments <= 2 * count;
  float patch[kPatchRows][kPatchColumns];
  if (patch_fits) std::fill_n(patch[0], std::max(rows, 0) * kPatchColumns, 0.0f);
  for (std::int64_t i = 0; i < count; ++i) {
    const Sample& sample = samples[i];
    if (sample.share == 0.0f) continue;
    const float below = sample.below * sample.share, above = (1.0f - sample.below) * sample.share;
    const float upper[2] = {(1.0f - sample.right) * above, sample.right * above};
    const float lower[2] = {(1.0f - sample.right) * below, sample.right * below};
    if (patch_fits) {
      float* at = &patch[sample.y - top][sample.x - left];
      at[0] += upper[0];
      at[1] += upper[1];
      at[kPatchColumns] += lower[0];
      at[kPatchColumns + 1] += lower[1];
    } else {
      emit(sample.y, sample.x, 2, upper);
      emit(sample.y + 1, sample.x, 2, lower);
    }
  }
  if (patch_fits)
    for (std::int32_t r = 0; r < rows; ++r)
      for (std::int32_t c = 0; c < columns; c += kLanes) emit(top + r, left + c, std::min(kLanes, columns - c), patch[r] + c);
  return segment_count;
}

bool VoxelFeatures::run(const Parallel& parallel, const float* points, const std::int32_t* voxel, std::int64_t count,
                        std::int64_t voxels, int depth, const float* features, std::int64_t channels,
                        std::int64_t padded_height, std::int64_t padded_width, const Projection& projection, float* out) {
  // Points by voxel, in raster order within each.
  reserve(start_, static_cast<std::size_t>(voxels + 2));
  reserve(order_, static_cast<std::size_t>(count));
  if (channels > 0) {
    reserve(samples_, static_cast<std::size_t>(count));
    reserve(segment_count_, static_cast<std::size_t>(voxels));
    reserve(segments_, static_cast<std::size_t>(2 * count + kAhead));
  }
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
    Segment* segments = channels > 0 ? segments_.data() + 2 * static_cast<std::int64_t>(start_[first]) : nullptr;
    for (std::int64_t v = first; v < last; ++v) {
      const float points_here = static_cast<float>(start_[v + 1] - start_[v]), share = 1.0f / points_here;
      float sum[3] = {0, 0, 0};
      for (std::int64_t i = start_[v]; i < start_[v + 1]; ++i) {
        const float* p = points + 3 * static_cast<std::int64_t>(order_[i]);
        for (int axis = 0; axis < 3; ++axis) sum[axis] += (p[axis] + 1.0f) * half_cells;
        if (channels == 0) continue;
        const float x = p[0] * half, y = p[1] * half, z = (p[2] * 0.5f + 0.5f) * (2.0f * half) + projection.z_min;
        const float scale = (k[6] * x + k[7] * y + k[8] * z) + 1e-4f;
        const float u = 2.0f * ((k[0] * x + k[1] * y + k[2] * z) / scale / w - 0.5f);
        const float t = 2.0f * ((k[3] * x + k[4] * y + k[5] * z) / scale / h - 0.5f);
        const float column = (u + 1.0f) * 0.5f * (w - 1.0f), row = (t + 1.0f) * 0.5f * (h - 1.0f);  // align_corners
        Sample& sample = samples_[static_cast<std::size_t>(i)];
        if (column > -1.0f && column < w && row > -1.0f && row < h) {
          sample.x = static_cast<std::int32_t>(column + 1.0f) - 1;  // floor, as column > -1
          sample.y = static_cast<std::int32_t>(row + 1.0f) - 1;
          sample.right = column - static_cast<float>(sample.x);
          sample.below = row - static_cast<float>(sample.y);
          sample.share = share;
        } else {
          sample.share = 0.0f;
        }
      }
      for (int axis = 0; axis < 3; ++axis) {
        const float mean = sum[axis] / points_here;
        out[v * row_length + axis] = (mean - std::trunc(mean)) - 0.5f;
      }
      if (channels > 0) {
        const std::int64_t planned =
            plan_voxel(samples_.data() + start_[v], start_[v + 1] - start_[v], projection, padded_width, segments);
        segment_count_[v] = static_cast<std::int32_t>(planned);
        segments += planned;
      }
    }
  });

  const std::int64_t plane = padded_height * padded_width, passes = (channels + kPlanes - 1) / kPlanes;
  parallel_for(parallel, static_cast<std::size_t>(passes) * blocks, [&](std::size_t task) {
    const std::int64_t channel = static_cast<std::int64_t>(task / blocks) * kPlanes;
    const int lanes = static_cast<int>(std::min<std::int64_t>(kPlanes, channels - channel));
    const float* planes[kPlanes];
    for (int c = 0; c < kPlanes; ++c) planes[c] = features + (channel + std::min(c, lanes - 1)) * plane;
    const std::int64_t first = static_cast<std::int64_t>(task % blocks) * kVoxelsPerBlock;
    const Segment* segment = segments_.data() + 2 * static_cast<std::int64_t>(start_[first]);
    for (std::int64_t v = first; v < std::min(first + kVoxelsPerBlock, voxels); ++v) {
      Vector sum[kPlanes] = {};
      for (std::int32_t s = 0; s < segment_count_[v]; ++s, ++segment) {
        const std::int32_t offset = segment->offset, ahead = segment[kAhead].offset;
        const Vector weight = load(segment->weight);
#pragma GCC unroll 8
        for (int c = 0; c < kPlanes; ++c) {
          __builtin_prefetch(planes[c] + ahead);
          sum[c] += weight * load(planes[c] + offset);
        }
      }
      const Vector mean[2] = {totals(sum[0], sum[1], sum[2], sum[3]), totals(sum[4], sum[5], sum[6], sum[7])};
      std::memcpy(out + v * row_length + 3 + channel, mean, static_cast<std::size_t>(lanes) * sizeof(float));
    }
  });
  return true;
}

}  // namespace zerograsp
