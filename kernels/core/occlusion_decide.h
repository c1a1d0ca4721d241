// Decides one flag of one sub-voxel. The full rasterisation ORs `z > depth` over all pixels of all 12 triangles; here
// three questions to a table of minima settle most sub-voxels, and only pixels that could still matter are rasterised:
//
//   nothing in the sub-voxel's bounding box is nearer than its far face                   -> 0
//   something in the projected far (or near) face is nearer than that face                -> 1: the two triangles of a
//       face parallel to the image leave no pixel of their rectangle out (they share the diagonal, bit for bit)
//   otherwise the pixels of the box that are nearer than the far face meet the exact test.
//
// kRelative is the slack of these shortcuts: a sampled z stays within a few ulp of the corners' range.
#pragma once
#include "core/host_device.h"
#include "core/occlusion_raster.h"

namespace zerograsp {
namespace occlusion {

constexpr float kRelative = 1e-5f;
// Barycentric weights of a rectangle of `area` pixels^2 at image position (x, y) cannot all round to zero while
// area > kWellConditioned * x * y (45 rounding steps of size x * y * 2^-24, with a margin of 4).
constexpr float kWellConditioned = 1.2e-5f;
constexpr int kMaxLevels = 7;

// Depth image of one mask, cut out at the mask's bounding box: depth where the mask is set and the depth is valid,
// +infinity elsewhere. Level k holds, at (x, y), the minimum over the 2^k x 2^k window that starts there.
struct MaskedDepth {
  const float* table;  // levels * height * width
  int x0, y0;          // the cut-out's corner in the image
  int width, height;
  int levels;
};

// What one axis of a sub-voxel covers in the image.
struct Span {
  float near_low, near_high, far_low, far_high;  // corners, image coordinates
  float magnitude;                               // largest absolute image coordinate
  int first, last;                               // pixels that may be covered
  int near_first, near_last;                     // pixels certainly covered by the near face,
  int far_first, far_last;                       // and by the far face
};

// Image coordinates of corner v (0 .. 7) of a sub-voxel, from the spans of its axes.
ZG_HD float corner_x(const Span& s, int v) {
  return v & 1 ? (v & 4 ? s.far_high : s.far_low) : (v & 4 ? s.near_high : s.near_low);
}
ZG_HD float corner_y(const Span& s, int v) {
  return v & 1 ? (v & 2 ? s.far_high : s.far_low) : (v & 2 ? s.near_high : s.near_low);
}

struct Interval {
  int first, last;
};

ZG_HD float smaller(float a, float b) { return b < a ? b : a; }
ZG_HD float larger(float a, float b) { return b > a ? b : a; }
ZG_HD int smaller(int a, int b) { return b < a ? b : a; }
ZG_HD int larger(int a, int b) { return b > a ? b : a; }

// Integers in [low, high] inside [0, size - 1]; last < first if there are none.
ZG_HD Interval integers_within(float low, float high, int size) {
  const float limit = static_cast<float>(size);
  if (!(high >= 0.0f) || !(low < limit)) return {0, -1};
  const int down = low > 0.0f ? static_cast<int>(low) : 0;
  return {down + (static_cast<float>(down) < low ? 1 : 0), smaller(static_cast<int>(smaller(high, limit)), size - 1)};
}

ZG_HD Span make_span(float low, float high, float z_near, float z_far, float focal, float centre, int size) {
  Span s;
  s.near_low = project(low, z_near, focal, centre, size);
  s.near_high = project(high, z_near, focal, centre, size);
  s.far_low = project(low, z_far, focal, centre, size);
  s.far_high = project(high, z_far, focal, centre, size);
  const float least = smaller(s.near_low, s.far_low), most = larger(s.near_high, s.far_high);
  s.magnitude = larger(larger(-least, most), 1.0f);
  // The rows of a column are interpolated between corners, so they may leave the corners' range by a few ulp; the
  // rasterisation rounds down at the low end and towards zero at the high end.
  const float slack = kRelative * s.magnitude, limit = static_cast<float>(size);
  const float begin = least - slack, end = most + slack;
  s.first = begin > 0.0f ? static_cast<int>(smaller(begin, limit)) : 0;
  s.last = end > -1.0f ? smaller(static_cast<int>(smaller(end, limit)), size - 1) : -1;
  const Interval near = integers_within(s.near_low, s.near_high, size);
  const Interval far = integers_within(s.far_low, s.far_high, size);
  s.near_first = near.first, s.near_last = near.last;
  s.far_first = far.first, s.far_last = far.last;
  return s;
}

// Minimum over the pixels [x0, x1] x [y0, y1] of the image; +infinity where the mask's cut-out ends.
ZG_HD float box_minimum(const MaskedDepth& m, int x0, int x1, int y0, int y1) {
  x0 = larger(x0 - m.x0, 0), x1 = smaller(x1 - m.x0, m.width - 1);
  y0 = larger(y0 - m.y0, 0), y1 = smaller(y1 - m.y0, m.height - 1);
  float least = __builtin_inff();
  const int shorter = smaller(x1 - x0, y1 - y0) + 1;
  if (shorter <= 0) return least;
  int level = 0;
  while (level + 1 < m.levels && (2 << level) <= shorter) ++level;
  const int step = 1 << level, last_x = x1 - step + 1, last_y = y1 - step + 1;
  const float* table = m.table + static_cast<long>(level) * m.width * m.height;
  for (int y = y0;; y += step) {
    y = smaller(y, last_y);
    const float* row = table + static_cast<long>(y) * m.width;
    for (int x = x0;; x += step) {
      x = smaller(x, last_x);
      least = smaller(least, row[x]);
      if (x == last_x) break;
    }
    if (y == last_y) break;
  }
  return least;
}

// The exact test, over the pixels of the bounding box that are nearer than the far face.
inline
#if defined(__CUDACC__)
    __host__ __device__
#endif
    int rasterise(const MaskedDepth& m, const Span& sx, const Span& sy, float z_near, float z_far) {
  const float reach = z_far * (1.0f + kRelative);
  const int x0 = larger(sx.first, m.x0), x1 = smaller(sx.last, m.x0 + m.width - 1);
  const int y0 = larger(sy.first, m.y0), y1 = smaller(sy.last, m.y0 + m.height - 1);
  Triangles triangles;
  int prepared = 0;
  for (int y = y0; y <= y1; ++y) {
    const float* row = m.table + static_cast<long>(y - m.y0) * m.width - m.x0;
    for (int x = x0; x <= x1; ++x) {
      const float depth = row[x];
      if (!(depth < reach)) continue;
      if (!prepared) {
        float px[8], py[8], pz[8];
        for (int v = 0; v < 8; ++v) {
          px[v] = corner_x(sx, v);
          py[v] = corner_y(sy, v);
          pz[v] = v & 1 ? z_far : z_near;
        }
        for (int t = 0; t < kTriangles; ++t) gather_triangle(triangles, t, px, py, pz);
        for (int t = 0; t < kTriangles; ++t) prepare_triangle(triangles, t);
        prepared = 1;
      }
      const float fx = static_cast<float>(x), fy = static_cast<float>(y);
      int hit = 0;
      for (int t = 0; t < kTriangles; ++t) hit |= covers(triangles, t, fx, fy) & is_behind(triangles, t, fx, fy, depth);
      if (hit) return 1;
    }
  }
  return 0;
}

// The flag of one sub-voxel for one mask.
ZG_HD int is_occluded(const MaskedDepth& m, const Span& sx, const Span& sy, float z_near, float z_far) {
  if (!(z_near >= kNearPlane)) return 0;
  if (!(box_minimum(m, sx.first, sx.last, sy.first, sy.last) < z_far * (1.0f + kRelative))) return 0;
  const float least_area = kWellConditioned * sx.magnitude * sy.magnitude;
  const float far_area = (sx.far_high - sx.far_low) * (sy.far_high - sy.far_low);
  if (far_area > least_area &&
      box_minimum(m, sx.far_first, sx.far_last, sy.far_first, sy.far_last) < z_far * (1.0f - kRelative))
    return 1;
  const float near_area = (sx.near_high - sx.near_low) * (sy.near_high - sy.near_low);
  if (near_area > least_area &&
      box_minimum(m, sx.near_first, sx.near_last, sy.near_first, sy.near_last) < z_near * (1.0f - kRelative))
    return 1;
  return rasterise(m, sx, sy, z_near, z_far);
}

}  // namespace occlusion
}  // namespace zerograsp
