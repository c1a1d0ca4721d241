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
#include "cpu/half_lanes.h"

namespace zerograsp {

namespace {

using Vector = float __attribute__((vector_size(16)));
using IntVector = std::int32_t __attribute__((vector_size(16)));

constexpr std::int64_t kVoxelsPerBlock = 1024, kPointsPerBlock = 8192;
constexpr int kLanes = 4;   // pixels of a segment
constexpr int kPlanes = 8;  // channels of a pass
constexpr int kAhead = 12;  // segments to prefetch ahead: a voxel's pixels are nowhere near the next one's in memory
constexpr int kPatchRows = 8, kPatchColumns = 8;  // a voxel whose points spread wider keeps each point's own segments

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Vector load(const Half* from) { return HalfLanes<Vector, IntVector>::load(from); }

inline void store(float* to, const float* values, std::int64_t count) {
  std::memcpy(to, values, static_cast<std::size_t>(count) * sizeof(float));
}
inline void store(Half* to, const float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = narrow(values[i]);
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

void VoxelFeatures::project(std::int64_t first, std::int64_t last, const float* points, const Projection& projection) {
  const float* k = projection.intrinsics;
  const float half = projection.half_extent, near = projection.z_min, w = static_cast<float>(projection.width),
              h = static_cast<float>(projection.height);
  float *column = column_.data(), *row = row_.data();
  for (std::int64_t i = first; i < last; ++i) {
    const float* p = points + 3 * i;
    const float x = p[0] * half, y = p[1] * half, z = (p[2] * 0.5f + 0.5f) * (2.0f * half) + near;
    const float scale = (k[6] * x + k[7] * y + k[8] * z) + 1e-4f;
    const float u = 2.0f * ((k[0] * x + k[1] * y + k[2] * z) / scale / w - 0.5f);
    const float v = 2.0f * ((k[3] * x + k[4] * y + k[5] * z) / scale / h - 0.5f);
    column[i] = (u + 1.0f) * 0.5f * (w - 1.0f);  // align_corners
    row[i] = (v + 1.0f) * 0.5f * (h - 1.0f);
  }
}

// Weights of the pixels that a voxel's points touch; returns the number of segments, at most two per point.
std::int64_t VoxelFeatures::plan_voxel(std::int64_t voxel, const Projection& projection, std::int64_t padded_width,
                                       Segment* segments) {
  const std::int32_t width = static_cast<std::int32_t>(projection.width);
  const std::int32_t height = static_cast<std::int32_t>(projection.height);
  const std::int32_t last_begin = static_cast<std::int32_t>(padded_width) - kLanes;
  const std::int64_t points = start_[voxel + 1] - start_[voxel];
  const float share = 1.0f / static_cast<float>(points), w = static_cast<float>(width), h = static_cast<float>(height);
  std::int64_t segment_count = 0, count = 0;
  // Columns x .. x + 3 of row y; a segment that would leave the map moves left. Zero padding: what lies outside the
  // image weighs nothing.
  const auto emit = [&](std::int32_t y, std::int32_t x, const float* weight) {
    if (y < 0 || y >= height) return;
    const std::int32_t begin = std::min(std::max(x, 0), last_begin);
    Segment& segment = segments[segment_count++];
    segment.offset = static_cast<std::int32_t>(y * padded_width) + begin;
    if (begin == x && x + kLanes <= width) {
      std::memcpy(segment.weight, weight, sizeof segment.weight);
      return;
    }
    std::fill_n(segment.weight, kLanes, 0.0f);
    for (int k = 0; k < kLanes; ++k)
      if (x + k >= 0 && x + k < width) segment.weight[x + k - begin] = weight[k];
  };

  Sample* samples = samples_.data() + start_[voxel];
  std::int32_t left = width, right = -2, top = height, bottom = -2;
  for (std::int64_t i = start_[voxel]; i < start_[voxel + 1]; ++i) {
    const float column = column_[order_[i]], row = row_[order_[i]];
    if (!(column > -1.0f && column < w && row > -1.0f && row < h)) continue;  // no pixel of the image is near
    Sample& sample = samples[count++];
    sample.x = static_cast<std::int32_t>(column + 1.0f) - 1;  // floor, as column > -1
    sample.y = static_cast<std::int32_t>(row + 1.0f) - 1;
    sample.right = column - static_cast<float>(sample.x);
    sample.below = row - static_cast<float>(sample.y);
    left = std::min(left, sample.x);
    right = std::max(right, sample.x + 1);
    top = std::min(top, sample.y);
    bottom = std::max(bottom, sample.y + 1);
  }
  if (count == 0) return 0;
  const std::int32_t columns = right - left + 1, rows = bottom - top + 1;
  const std::int32_t row_segments = (columns + kLanes - 1) / kLanes;
  const bool patch_fits = rows <= kPatchRows && columns <= kPatchColumns && rows * row_segments <= 2 * count;
  float patch[kPatchRows][kPatchColumns];
  if (patch_fits) std::fill_n(patch[0], rows * kPatchColumns, 0.0f);
  for (std::int64_t i = 0; i < count; ++i) {
    const Sample& sample = samples[i];
    const float below = sample.below * share, above = (1.0f - sample.below) * share;
    const float upper[kLanes] = {(1.0f - sample.right) * above, sample.right * above};
    const float lower[kLanes] = {(1.0f - sample.right) * below, sample.right * below};
    if (patch_fits) {
      float* at = &patch[sample.y - top][sample.x - left];
      at[0] += upper[0];
      at[1] += upper[1];
      at[kPatchColumns] += lower[0];
      at[kPatchColumns + 1] += lower[1];
    } else {
      emit(sample.y, sample.x, upper);
      emit(sample.y + 1, sample.x, lower);
    }
  }
  if (patch_fits)
    for (std::int32_t r = 0; r < rows; ++r)
      for (std::int32_t c = 0; c < columns; c += kLanes) emit(top + r, left + c, patch[r] + c);
  return segment_count;
}

template <class Feature, class Out>
bool VoxelFeatures::run(const Parallel& parallel, const float* points, const std::int32_t* voxel, std::int64_t count,
                        std::int64_t voxels, int depth, const Feature* features, std::int64_t channels,
                        std::int64_t padded_height, std::int64_t padded_width, const Projection& projection, Out* out) {
  // Points by voxel, in raster order within each.
  reserve(start_, static_cast<std::size_t>(voxels + 2));
  reserve(order_, static_cast<std::size_t>(count));
  if (channels > 0) {
    reserve(column_, static_cast<std::size_t>(count));
    reserve(row_, static_cast<std::size_t>(count));
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
  if (channels > 0)
    parallel_for(parallel, static_cast<std::size_t>((count + kPointsPerBlock - 1) / kPointsPerBlock), [&](std::size_t b) {
      const std::int64_t first = static_cast<std::int64_t>(b) * kPointsPerBlock;
      project(first, std::min(first + kPointsPerBlock, count), points, projection);
    });
  parallel_for(parallel, blocks, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kVoxelsPerBlock;
    const std::int64_t last = std::min(first + kVoxelsPerBlock, voxels);
    Segment* segments = channels > 0 ? segments_.data() + 2 * static_cast<std::int64_t>(start_[first]) : nullptr;
    for (std::int64_t v = first; v < last; ++v) {
      const float points_here = static_cast<float>(start_[v + 1] - start_[v]);
      float sum[3] = {0, 0, 0};
      for (std::int64_t i = start_[v]; i < start_[v + 1]; ++i) {
        const float* p = points + 3 * static_cast<std::int64_t>(order_[i]);
        for (int axis = 0; axis < 3; ++axis) sum[axis] += (p[axis] + 1.0f) * half_cells;
      }
      for (int axis = 0; axis < 3; ++axis) {
        const float mean = sum[axis] / points_here;
        sum[axis] = (mean - std::trunc(mean)) - 0.5f;
      }
      store(out + v * row_length, sum, 3);
      if (channels > 0) {
        const std::int64_t planned = plan_voxel(v, projection, padded_width, segments);
        segment_count_[v] = static_cast<std::int32_t>(planned);
        segments += planned;
      }
    }
  });

  const std::int64_t plane = padded_height * padded_width, passes = (channels + kPlanes - 1) / kPlanes;
  parallel_for(parallel, static_cast<std::size_t>(passes) * blocks, [&](std::size_t task) {
    const std::int64_t channel = static_cast<std::int64_t>(task / blocks) * kPlanes;
    const int lanes = static_cast<int>(std::min<std::int64_t>(kPlanes, channels - channel));
    const Feature* planes[kPlanes];
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
      float values[kPlanes];
      std::memcpy(values, mean, sizeof values);
      store(out + v * row_length + 3 + channel, values, lanes);
    }
  });
  return true;
}

#define ZG_VOXEL_FEATURES(Feature, Out)                                                                               \
  template bool VoxelFeatures::run(const Parallel&, const float*, const std::int32_t*, std::int64_t, std::int64_t, int, \
                                   const Feature*, std::int64_t, std::int64_t, std::int64_t, const Projection&, Out*)
ZG_VOXEL_FEATURES(float, float);
ZG_VOXEL_FEATURES(float, Half);
ZG_VOXEL_FEATURES(Half, float);
ZG_VOXEL_FEATURES(Half, Half);
#undef ZG_VOXEL_FEATURES

}  // namespace zerograsp
