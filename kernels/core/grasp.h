// Refinement of parallel-jaw grasps against a cloud of scene points: contact-constrained width and depth, and whether the
// gripper fits. The meaning is in kernels/reference/grasp.py; here a grasp looks only at the points that its gripper can
// touch, which a uniform grid finds. Plain pointers and no allocation: one grasp is one CPU task or one CUDA thread.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace zerograsp {
namespace grasp {

// m; the grasp frame is x = approach, y = closing, z = height.
struct Gripper {
  float finger_thickness;  // along y
  float finger_height;     // along z
  float finger_base;       // fingers begin this far behind the grasp point, if finger_length is 0
  float finger_length;     // > 0: fingers begin this far behind their tips, wherever those are
  float palm_thickness;    // along x, behind the fingers
  float palm_width;        // along y; 0: from one finger's outer face to the other's
  float palm_height;       // along z
  float max_opening;       // infinity: any
  float min_clearance, max_clearance;  // between a contact and the finger's inner face
  float tip_margin;        // how far the tips may reach beyond the contacts; infinity: any
  float sweep;             // how far the hand comes along x before the grasp; negative: not checked
  int min_inner_points;
};

// The first test that a grasp fails.
enum Status : std::uint8_t { kFits, kEmpty, kTooWide, kFinger, kPalm, kSweep };

struct Outcome {
  float width, depth;
  std::int32_t inner_points;
  Status status;
};

constexpr int kBlock = 8;

// Points in cells of a uniform grid, sorted by cell; cells that follow each other along the last axis are consecutive, so
// that a column's points form one run. A cloud's first points (by index) are kept as well, for contacts without a point.
struct PointGrid {
  float origin[3];
  float cell;
  std::int32_t cells[3];
  const std::int32_t* first;  // (cells + 1) first point of every cell
  const float *x, *y, *z;     // (n + kBlock) sorted by cell, m; behind the last point anything finite
  const std::int32_t* index;  // (n + kBlock) position in the cloud
  const float* cloud;         // (total, 3) in its own order
  std::int64_t total;
};

struct Pose {
  const float* rotation;     // (3, 3) row-major; columns approach, closing, height
  const float* translation;  // (3)
};

struct Local {
  float x, y, z;
};

ZG_HD Local to_grasp_frame(const Pose& pose, float x, float y, float z) {
  const float* r = pose.rotation;
  const float dx = x - pose.translation[0], dy = y - pose.translation[1], dz = z - pose.translation[2];
  return {dx * r[0] + dy * r[3] + dz * r[6], dx * r[1] + dy * r[4] + dz * r[7], dx * r[2] + dy * r[5] + dz * r[8]};
}

// A box in the grasp frame, symmetric about the approach axis.
struct Box {
  float x0, x1, half_y, half_z;
};

ZG_HD float smaller(float a, float b) { return a < b ? a : b; }
ZG_HD float larger(float a, float b) { return a > b ? a : b; }

// kBlock points in the grasp frame; those from `count` on are no part of the run. Loops over all lanes without branches
// become vector instructions on a CPU.
struct Block {
  float x[kBlock], y[kBlock], z[kBlock];
  const std::int32_t* index;  // in the cloud
  std::int32_t count;
};

// Calls visit(block) for blocks that hold every point of the grid in the closed `box`, and others near it; ends when it
// returns false. Columns of cells along the grid's last axis are clipped against the box.
template <class Visit>
ZG_HD void visit_box(const PointGrid& grid, const Pose& pose, const Box& box, Visit& visit) {
  const float* r = pose.rotation;
  const float* t = pose.translation;
  const float mid_x = 0.5f * (box.x0 + box.x1);
  const float half[3] = {0.5f * (box.x1 - box.x0), box.half_y, box.half_z};
  // What rounding, of points, cells and of the rotation itself, may move a point by; cells are looked at that much further.
  const float slack = 1e-3f * grid.cell + 1e-5f + 2e-4f * (half[0] + half[1] + half[2]) +
                      1e-6f * (fabsf(t[0]) + fabsf(t[1]) + fabsf(t[2]));
  const float per_metre = 1.0f / grid.cell, half_cell = 0.5f * grid.cell;
  float centre[3], reach[3];
  std::int32_t low[3], high[3];
  for (int a = 0; a < 3; ++a) {
    centre[a] = t[a] + mid_x * r[3 * a] - grid.origin[a];
    reach[a] = fabsf(r[3 * a]) * half[0] + fabsf(r[3 * a + 1]) * half[1] + fabsf(r[3 * a + 2]) * half[2] + slack;
    const float first = (centre[a] - reach[a]) * per_metre, last = (centre[a] + reach[a]) * per_metre;
    const float cells = static_cast<float>(grid.cells[a]);
    if (!(last >= 0.0f) || !(first < cells)) return;
    low[a] = first > 0.0f ? static_cast<std::int32_t>(first) : 0;
    high[a] = last < cells ? static_cast<std::int32_t>(last) : grid.cells[a] - 1;
  }
  // On a column, |offset + z along| <= bound must hold for all three axes of the box; an axis across the column (along
  // near 0) bounds nothing there, which is taken care of by the points' own test.
  float bound[3], inverse[3];
  for (int k = 0; k < 3; ++k) {
    bound[k] = half[k] + half_cell * (fabsf(r[k]) + fabsf(r[3 + k])) + slack;
    inverse[k] = fabsf(r[6 + k]) > 1e-3f ? 1.0f / r[6 + k] : 0.0f;
  }
  for (std::int32_t i = low[0]; i <= high[0]; ++i) {
    const float x = (static_cast<float>(i) + 0.5f) * grid.cell - centre[0];
    for (std::int32_t j = low[1]; j <= high[1]; ++j) {
      const float y = (static_cast<float>(j) + 0.5f) * grid.cell - centre[1];
      float from = -reach[2], to = reach[2];
      for (int k = 0; k < 3; ++k) {
        if (inverse[k] == 0.0f) continue;
        const float middle = -(x * r[k] + y * r[3 + k]) * inverse[k], spread = bound[k] * fabsf(inverse[k]);
        from = larger(from, middle - spread);
        to = smaller(to, middle + spread);
      }
      if (!(from <= to)) continue;
      const float begin = (from + centre[2] - slack) * per_metre, end = (to + centre[2] + slack) * per_metre;
      const std::int32_t k0 = begin > static_cast<float>(low[2]) ? static_cast<std::int32_t>(begin) : low[2];
      const std::int32_t k1 = end < static_cast<float>(high[2]) ? static_cast<std::int32_t>(floorf(end)) : high[2];
      if (k0 > k1) continue;
      const std::int64_t column = (static_cast<std::int64_t>(i) * grid.cells[1] + j) * grid.cells[2];
      const std::int32_t stop = grid.first[column + k1 + 1];
      for (std::int32_t n = grid.first[column + k0]; n < stop; n += kBlock) {
        Block block;
        block.index = grid.index + n;
        block.count = stop - n;
        for (int b = 0; b < kBlock; ++b) {
          const Local p = to_grasp_frame(pose, grid.x[n + b], grid.y[n + b], grid.z[n + b]);
          block.x[b] = p.x, block.y[b] = p.y, block.z[b] = p.z;
        }
        if (!visit(block)) return;
      }
    }
  }
}

// Between the fingers: not beyond either finger's inner face.
struct Inside {
  float base, depth, half_width, half_height;
  ZG_HD int operator()(float x, float y, float z) const {
    return (fabsf(z) < half_height) & (x > base) & (x < depth) & (fabsf(y) <= half_width);
  }
};

constexpr std::int32_t kNone = 0x7fffffff;

// The point nearest to a finger: the smallest distance, of equal ones the lowest index.
struct Contact {
  float distance, x;
  std::int32_t index;
  ZG_HD void offer(float d, float at, std::int32_t i) {
    if (i < kNone && (index == kNone || d < distance || (d == distance && i < index))) distance = d, x = at, index = i;
  }
};

// Counts the inner points and finds the contacts: lane by lane, joined at the end.
struct ContactScan {
  Inside inside;
  std::int32_t inner[kBlock], left_index[kBlock], right_index[kBlock];
  float left[kBlock], right[kBlock], left_x[kBlock], right_x[kBlock];

  ZG_HD explicit ContactScan(const Inside& region) : inside(region) {
    for (int b = 0; b < kBlock; ++b) {
      inner[b] = 0, left_index[b] = right_index[b] = kNone;
      left[b] = right[b] = 1e30f, left_x[b] = right_x[b] = 0.0f;
    }
  }

  ZG_HD bool operator()(const Block& block) {
    for (int b = 0; b < kBlock; ++b) {
      const float x = block.x[b], y = block.y[b];
      const std::int32_t i = block.index[b];
      const int in = inside(x, y, block.z[b]) & (b < block.count);
      // All operands are read before any choice: a load in a branch would keep the loop scalar.
      const float l = inside.half_width + y, r = inside.half_width - y;
      const float old_l = left[b], old_r = right[b], old_lx = left_x[b], old_rx = right_x[b];
      const std::int32_t old_li = left_index[b], old_ri = right_index[b];
      const int nearer_l = in & ((l < old_l) | ((l == old_l) & (i < old_li)));
      const int nearer_r = in & ((r < old_r) | ((r == old_r) & (i < old_ri)));
      inner[b] += in;
      left[b] = nearer_l ? l : old_l, right[b] = nearer_r ? r : old_r;
      left_x[b] = nearer_l ? x : old_lx, right_x[b] = nearer_r ? x : old_rx;
      left_index[b] = nearer_l ? i : old_li, right_index[b] = nearer_r ? i : old_ri;
    }
    return true;
  }
};

// Does any point lie in a finger or in the palm? Ends at the first in a finger, which is named before the palm.
struct CollisionScan {
  float half_width, outer, half_height, start, depth;  // fingers
  float palm_side, palm_half_height, back, base;
  int finger, palm;

  ZG_HD bool operator()(const Block& block) {
    int in_finger = 0, in_palm = 0;
    for (int b = 0; b < kBlock; ++b) {
      const float x = block.x[b], y = fabsf(block.y[b]), z = fabsf(block.z[b]);
      const int in_run = b < block.count;
      in_finger |= in_run & (z < half_height) & (y > half_width) & (y < outer) & (x > start) & (x < depth);
      in_palm |= in_run & (z < palm_half_height) & (y < palm_side) & (x > back) & (x <= base);
    }
    finger |= in_finger, palm |= in_palm;
    return !finger;
  }
};

ZG_HD float finger_base(const Gripper& g, float depth) {
  return g.finger_length > 0.0f ? depth - g.finger_length : -g.finger_base;
}

// Does the hand with this opening and depth touch a point, from `approach` behind its final place to that place?
ZG_HD Status touches(const Gripper& g, const PointGrid& grid, const Pose& pose, float width, float depth,
                     float approach) {
  CollisionScan scan;
  scan.half_width = 0.5f * width, scan.outer = scan.half_width + g.finger_thickness;
  scan.base = finger_base(g, depth), scan.depth = depth;
  scan.palm_side = g.palm_width > 0.0f ? 0.5f * g.palm_width : scan.outer;
  scan.back = scan.base - g.palm_thickness - approach, scan.start = scan.base - approach;
  scan.half_height = 0.5f * g.finger_height, scan.palm_half_height = 0.5f * g.palm_height;
  scan.finger = scan.palm = 0;
  const Box hull = {scan.back, larger(depth, scan.base), larger(scan.outer, scan.palm_side),
                    larger(scan.half_height, scan.palm_half_height)};
  visit_box(grid, pose, hull, scan);
  return scan.finger ? kFinger : scan.palm ? kPalm : kFits;
}

ZG_HD Outcome refine(const Gripper& g, const PointGrid& grid, const Pose& pose, float width, float depth) {
  const float checked_width = smaller(width, g.max_opening), half_width = 0.5f * width;
  const Inside inside = {finger_base(g, depth), depth, half_width, 0.5f * g.finger_height};
  ContactScan scan(inside);
  visit_box(grid, pose, {inside.base, larger(depth, inside.base), half_width, inside.half_height}, scan);
  Contact left = {0.0f, 0.0f, kNone}, right = left;
  std::int32_t count = 0;
  for (int b = 0; b < kBlock; ++b) {
    count += scan.inner[b];
    left.offer(scan.left[b], scan.left_x[b], scan.left_index[b]);
    right.offer(scan.right[b], scan.right_x[b], scan.right_index[b]);
  }
  // Every point that is not between the fingers counts as one in the middle: only the first of them can matter.
  for (std::int32_t i = 0; i < grid.total && i <= count; ++i) {
    const float* at = grid.cloud + 3 * static_cast<std::int64_t>(i);
    const Local p = to_grasp_frame(pose, at[0], at[1], at[2]);
    if (inside(p.x, p.y, p.z)) continue;
    left.offer(half_width, p.x, i);
    right.offer(half_width, p.x, i);
    break;
  }
  Outcome out = {width, larger(depth, 0.0f), count, kFits};
  if (left.index != kNone) {
    const float contact = smaller(left.distance, right.distance);
    const float clearance = smaller(larger(contact, g.min_clearance), g.max_clearance);
    out.width = width + 2.0f * (clearance - contact);
    out.depth = larger(smaller(larger(left.x, right.x) + g.tip_margin, depth), 0.0f);
    if (out.width > g.max_opening) {
      // A hand that cannot open that far takes less clearance, but not less than the smallest.
      if (out.width - 2.0f * (clearance - g.min_clearance) > g.max_opening) out.status = kTooWide;
      out.width = g.max_opening;
    }
  }
  if (count < g.min_inner_points) out.status = kEmpty;
  if (out.status != kFits) return out;
  out.status = touches(g, grid, pose, checked_width, out.depth, 0.0f);
  if (out.status == kFits && g.sweep >= 0.0f && touches(g, grid, pose, out.width, out.depth, g.sweep) != kFits)
    out.status = kSweep;
  return out;
}

// Two grasps are the same when they are closer than `distance` and turned by less than the angle with this cosine; turned
// by 180 degrees about the approach axis a parallel gripper is the same hand.
struct Sameness {
  float distance, cosine;
};

ZG_HD bool same_grasp(const Sameness& limit, const Pose& a, const Pose& b) {
  const float dx = a.translation[0] - b.translation[0], dy = a.translation[1] - b.translation[1];
  const float dz = a.translation[2] - b.translation[2];
  if (!(dx * dx + dy * dy + dz * dz < limit.distance * limit.distance)) return false;
  const float* p = a.rotation;
  const float* q = b.rotation;
  const float approach = p[0] * q[0] + p[3] * q[3] + p[6] * q[6];
  const float closing = p[1] * q[1] + p[4] * q[4] + p[7] * q[7];
  const float height = p[2] * q[2] + p[5] * q[5] + p[8] * q[8];
  // The trace of the relative rotation is 1 + 2 cos(angle); the half turn changes the sign of two axes.
  return 0.5f * (approach + fabsf(closing + height) - 1.0f) > limit.cosine;
}

}  // namespace grasp
}  // namespace zerograsp
