// The one decision of the occlusion field: is a pixel covered by a triangle of a sub-voxel, and is the triangle there
// behind the depth image? Written without floor() and without branches, so that it vectorises over the 12 triangles.
//
// Flags must not depend on the machine: every float operation stands in the order of the published network
// (no fused multiply-add: compile with -ffp-contract=off, nvcc --fmad=false).
#pragma once
#include <cstdint>

#include "core/host_device.h"

namespace zerograsp {
namespace occlusion {

constexpr int kTriangles = 12;
constexpr float kInvalidDepth = 10.0f;  // mm; a depth sample at or below it says nothing
// A sub-voxel reaching nearer than this (or behind the camera) has no meaningful projection and gets no flags: nothing
// that the camera measures lies in front of it.
constexpr float kNearPlane = 1.0f;  // mm

// Image coordinate of a camera-frame coordinate, through normalised device coordinates as the published network does.
ZG_HD float project(float value, float z, float focal, float centre, int size) {
  const float extent = static_cast<float>(size);
  const float pixel = (focal * value + centre * z) / z;
  const float ndc = 2.0f * (pixel - extent / 2.0f) / extent;
  return 0.5f * (ndc * extent + extent - 1.0f);
}

// Triangles of one sub-voxel, corners a, b, c from left to right; one array per quantity. A CPU takes all of them at once, a
// CUDA thread one after the other.
template <int kCount>
struct TriangleSet {
  float ax[kCount], ay[kCount], az[kCount];
  float bx[kCount], by[kCount], bz[kCount];
  float cx[kCount], cy[kCount], cz[kCount];
  float slope_ab[kCount], slope_bc[kCount], slope_ac[kCount];
  float weight_x[3][kCount], weight_y[3][kCount], weight_1[3][kCount];  // barycentric weight = x, y, 1 terms
  int usable[kCount];  // 0: no extent in x, or no area
};
using Triangles = TriangleSet<kTriangles>;

ZG_HD void swap_if(bool swap, float& p, float& q) {
  const float low = swap ? q : p, high = swap ? p : q;
  p = low;
  q = high;
}

// Stable sort of the corners of triangle t by image x.
template <int kCount>
ZG_HD void left_to_right(TriangleSet<kCount>& T, int t) {
  bool swap = T.bx[t] < T.ax[t];
  swap_if(swap, T.ax[t], T.bx[t]), swap_if(swap, T.ay[t], T.by[t]), swap_if(swap, T.az[t], T.bz[t]);
  swap = T.cx[t] < T.bx[t];
  swap_if(swap, T.bx[t], T.cx[t]), swap_if(swap, T.by[t], T.cy[t]), swap_if(swap, T.bz[t], T.cz[t]);
  swap = T.bx[t] < T.ax[t];
  swap_if(swap, T.ax[t], T.bx[t]), swap_if(swap, T.ay[t], T.by[t]), swap_if(swap, T.az[t], T.bz[t]);
}

// Corner index = 4 * (x high) + 2 * (y high) + (z high). The order within a triangle decides between corners of equal image x
// (left_to_right is stable), the diagonals decide which pixels at the rim of a face are covered: both as the published flags
// need them. Six triangles to a word, three bits a corner: an array could not be indexed in device code.
constexpr std::uint64_t pack_corners(int first) {
  constexpr unsigned char kCorners[kTriangles][3] = {{1, 2, 3}, {1, 0, 2}, {4, 6, 7}, {4, 5, 7}, {0, 1, 5}, {0, 5, 4},
                                                     {3, 7, 6}, {3, 6, 2}, {4, 6, 2}, {4, 0, 2}, {7, 1, 5}, {1, 7, 3}};
  std::uint64_t word = 0;
  for (int i = 0; i < 18; ++i) word |= static_cast<std::uint64_t>(kCorners[first + i / 3][i % 3]) << (3 * i);
  return word;
}

constexpr std::uint64_t kCornersLow = pack_corners(0), kCornersHigh = pack_corners(6);

// Corner `i` (0, 1, 2) of triangle t.
ZG_HD int triangle_corner(int t, int i) {
  return static_cast<int>((t < 6 ? kCornersLow : kCornersHigh) >> (t % 6 * 9 + i * 3) & 7u);
}

// x, y, z: the 8 corners of the sub-voxel in image coordinates and mm.
ZG_HD void gather_triangle(Triangles& T, int t, const float* x, const float* y, const float* z) {
  const int a = triangle_corner(t, 0), b = triangle_corner(t, 1), c = triangle_corner(t, 2);
  T.ax[t] = x[a], T.ay[t] = y[a], T.az[t] = z[a];
  T.bx[t] = x[b], T.by[t] = y[b], T.bz[t] = z[b];
  T.cx[t] = x[c], T.cy[t] = y[c], T.cz[t] = z[c];
}

template <int kCount>
ZG_HD void prepare_triangle(TriangleSet<kCount>& T, int t) {
  left_to_right(T, t);
  const float ax = T.ax[t], ay = T.ay[t], bx = T.bx[t], by = T.by[t], cx = T.cx[t], cy = T.cy[t];
  // A vertical edge divides by zero here; covers() then takes the corner instead.
  T.slope_ab[t] = (by - ay) / (bx - ax);
  T.slope_bc[t] = (cy - by) / (cx - bx);
  T.slope_ac[t] = (cy - ay) / (cx - ax);
  const float area = cx * (ay - by) + ax * (by - cy) + bx * (cy - ay);
  T.weight_x[0][t] = (by - cy) / area;
  T.weight_y[0][t] = (cx - bx) / area;
  T.weight_1[0][t] = (bx * cy - cx * by) / area;
  T.weight_x[1][t] = (cy - ay) / area;
  T.weight_y[1][t] = (ax - cx) / area;
  T.weight_1[1][t] = (cx * ay - ax * cy) / area;
  T.weight_x[2][t] = (ay - by) / area;
  T.weight_y[2][t] = (bx - ax) / area;
  T.weight_1[2][t] = (ax * by - bx * ay) / area;
  T.usable[t] = (ax != cx) & (area != 0.0f);
}

// Does the rasterisation of triangle t visit pixel (x, y), x and y >= 0? Columns run from floor(leftmost) to
// trunc(rightmost), the rows of a column from floor to trunc between the long edge a-c and the short edges, both taken at
// the column, moved into [leftmost, rightmost]. For p >= 0: p >= floor(v) is p + 1 > v; p <= trunc(v) is p <= v, or p = 0
// and v > -1.
template <int kCount>
ZG_HD int covers(const TriangleSet<kCount>& T, int t, float x, float y) {
  const float ax = T.ax[t], ay = T.ay[t], bx = T.bx[t], by = T.by[t], cx = T.cx[t];
  const int column = (x + 1.0f > ax) & ((x <= cx) | ((x == 0.0f) & (cx > -1.0f)));
  float at = x < ax ? ax : x;
  at = at > cx ? cx : at;
  const float on_ab = T.slope_ab[t] * (at - ax) + ay, on_bc = T.slope_bc[t] * (at - bx) + by;
  const float left = bx != ax ? on_ab : by, right = cx != bx ? on_bc : by;
  const float shorter = at <= bx ? left : right;
  const float longer = T.slope_ac[t] * (at - ax) + ay;
  const float top = longer < shorter ? longer : shorter, bottom = longer < shorter ? shorter : longer;
  const int row = (y + 1.0f > top) & ((y <= bottom) | ((y == 0.0f) & (bottom > -1.0f)));
  return T.usable[t] & column & row;
}

ZG_HD float clamp_weight(float w) {
  const float low = w > 0.0f ? w : 0.0f;
  return low < 1.0f ? low : 1.0f;
}

// Is triangle t behind `depth` (mm) at pixel (x, y)? Perspective-correct depth from clamped, renormalised weights. Where
// all weights round to nothing there is no depth, and the sample does not count.
template <int kCount>
ZG_HD int is_behind(const TriangleSet<kCount>& T, int t, float x, float y, float depth) {
  const float w0 = clamp_weight(T.weight_x[0][t] * x + T.weight_y[0][t] * y + T.weight_1[0][t]);
  const float w1 = clamp_weight(T.weight_x[1][t] * x + T.weight_y[1][t] * y + T.weight_1[1][t]);
  const float w2 = clamp_weight(T.weight_x[2][t] * x + T.weight_y[2][t] * y + T.weight_1[2][t]);
  const float sum = w0 + w1 + w2;
  const float z = 1.0f / (w0 / sum / T.az[t] + w1 / sum / T.bz[t] + w2 / sum / T.cz[t]);
  return (sum > 0.0f) & (z > depth);
}

}  // namespace occlusion
}  // namespace zerograsp
