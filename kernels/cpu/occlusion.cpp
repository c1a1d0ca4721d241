#include "core/occlusion.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace zerograsp {
namespace {

using occlusion::MaskedDepth;
using occlusion::Span;
using Box = OcclusionWorkspace::Box;
using Band = OcclusionWorkspace::Band;

constexpr int kRowsPerBand = 32;
// A masked depth image up to this size is built, with all its levels, by one task: starting a parallel loop per level
// costs more, above all on a machine whose cores are shared.
constexpr int kWholePlane = 1 << 17;
constexpr Box kEmpty = {std::numeric_limits<int>::max(), std::numeric_limits<int>::max(), -1, -1};

// "Grows and never shrinks": std::vector keeps its capacity.
template <class T>
void reserve_size(std::vector<T>& v, std::size_t size) {
  if (v.size() < size) v.resize(size);
}

void include(Box& box, const Box& other) {
  box.x0 = std::min(box.x0, other.x0), box.y0 = std::min(box.y0, other.y0);
  box.x1 = std::max(box.x1, other.x1), box.y1 = std::max(box.y1, other.y1);
}

// True if all labels of [labels, labels + count) equal `value`.
inline bool all_equal(const std::int32_t* labels, int count, std::int32_t value) {
  std::int32_t different = 0;
  for (int i = 0; i < count; ++i) different |= labels[i] ^ value;
  return different == 0;
}

// Bounding box of every object's mask in rows [first, last); false if a label is no object.
bool bound_masks(const OcclusionInput& in, int first, int last, Box* boxes) {
  constexpr int kRun = 16;
  std::fill(boxes, boxes + in.objects, kEmpty);
  for (int y = first; y < last; ++y) {
    const std::int32_t* row = in.labels + static_cast<std::ptrdiff_t>(y) * in.width;
    int x = 0;
    while (x < in.width) {
      const std::int32_t label = row[x];
      int end = x + 1;
      while (end + kRun <= in.width && all_equal(row + end, kRun, label)) end += kRun;
      while (end < in.width && row[end] == label) ++end;
      if (label != -1) {
        if (label < 0 || label >= in.objects) return false;
        include(boxes[label], {x, y, end - 1, y});
      }
      x = end;
    }
  }
  return true;
}

OcclusionError bound_all_masks(const OcclusionInput& in, OcclusionWorkspace& ws, const Parallel& parallel) {
  const int bands = (in.height + kRowsPerBand - 1) / kRowsPerBand;
  reserve_size(ws.band_boxes, static_cast<std::size_t>(bands) * in.objects);
  reserve_size(ws.boxes, in.objects);
  std::atomic<bool> valid{true};
  parallel_for(parallel, bands, [&](std::size_t band) {
    const int first = static_cast<int>(band) * kRowsPerBand;
    if (!bound_masks(in, first, std::min(first + kRowsPerBand, in.height), &ws.band_boxes[band * in.objects]))
      valid.store(false, std::memory_order_relaxed);
  });
  if (!valid) return OcclusionError::label_out_of_range;
  for (int object = 0; object < in.objects; ++object) {
    ws.boxes[object] = kEmpty;
    for (int band = 0; band < bands; ++band)
      include(ws.boxes[object], ws.band_boxes[static_cast<std::size_t>(band) * in.objects + object]);
  }
  return OcclusionError::none;
}

// Groups the nodes by object: first_node (objects + 1) and node_order.
OcclusionError sort_nodes(const OcclusionInput& in, OcclusionWorkspace& ws) {
  reserve_size(ws.first_node, static_cast<std::size_t>(in.objects) + 1);
  reserve_size(ws.node_order, in.nodes);
  std::fill(ws.first_node.begin(), ws.first_node.begin() + in.objects + 1, 0);
  for (int i = 0; i < in.nodes; ++i) {
    if (in.object[i] < 0 || in.object[i] >= in.objects) return OcclusionError::object_out_of_range;
    ++ws.first_node[in.object[i] + 1];
  }
  for (int o = 0; o < in.objects; ++o) ws.first_node[o + 1] += ws.first_node[o];
  for (int i = 0; i < in.nodes; ++i) ws.node_order[ws.first_node[in.object[i]]++] = i;
  for (int o = in.objects; o > 0; --o) ws.first_node[o] = ws.first_node[o - 1];
  ws.first_node[0] = 0;
  return OcclusionError::none;
}

// Levels of the minimum tables: windows as large as the largest sub-voxel seen, so that a query takes about 4 reads.
int table_levels(const OcclusionInput& in) {
  const float step = in.edge / static_cast<float>(in.resolution);
  float nearest = std::numeric_limits<float>::infinity();
  for (int i = 0; i < in.nodes; ++i) {
    const float z = in.centres[3 * i + 2] - in.edge / 2;
    if (z >= occlusion::kNearPlane) nearest = std::min(nearest, z);
  }
  const float pixels = std::max(in.fx, in.fy) * step / nearest;
  int levels = 1;
  while (levels < occlusion::kMaxLevels && static_cast<float>(2 << (levels - 1)) <= pixels) ++levels;
  return levels;
}

// Level 0 of one masked depth image, rows [band.first_row, band.last_row).
void cut_out(const OcclusionInput& in, const MaskedDepth& plane, float* table, int object, bool inter,
             const Band& band) {
  const std::uint8_t* adjacent = in.adjacency + static_cast<std::ptrdiff_t>(object) * in.objects;
  constexpr float kNothing = std::numeric_limits<float>::infinity();
  for (int y = band.first_row; y < band.last_row; ++y) {
    const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(plane.y0 + y) * in.width + plane.x0;
    const float* depth = in.depth + start;
    const std::int32_t* labels = in.labels + start;
    float* row = table + static_cast<std::ptrdiff_t>(y) * plane.width;
    if (!inter) {
      for (int x = 0; x < plane.width; ++x)
        row[x] = (labels[x] == object) & (depth[x] > occlusion::kInvalidDepth) ? depth[x] : kNothing;
    } else {
      for (int x = 0; x < plane.width; ++x)
        row[x] = labels[x] >= 0 && adjacent[labels[x]] && depth[x] > occlusion::kInvalidDepth ? depth[x] : kNothing;
    }
  }
}

// Level `level` from the level below.
void widen_windows(const MaskedDepth& plane, float* table, int level, const Band& band) {
  const int reach = 1 << (level - 1), width = plane.width;
  const std::ptrdiff_t area = static_cast<std::ptrdiff_t>(width) * plane.height;
  const int last_row = std::min(band.last_row, plane.height - 2 * reach + 1);
  for (int y = band.first_row; y < last_row; ++y) {
    const float* __restrict upper = table + area * (level - 1) + static_cast<std::ptrdiff_t>(y) * width;
    const float* __restrict lower = upper + static_cast<std::ptrdiff_t>(reach) * width;
    float* __restrict row = table + area * level + static_cast<std::ptrdiff_t>(y) * width;
    for (int x = 0; x < width - 2 * reach + 1; ++x)
      row[x] = std::min(std::min(upper[x], upper[x + reach]), std::min(lower[x], lower[x + reach]));
  }
}

std::size_t table_size(const Box& box, int levels) {
  return box.x1 < box.x0 ? 0 : static_cast<std::size_t>(box.x1 - box.x0 + 1) * (box.y1 - box.y0 + 1) * levels;
}

Box inter_box(const OcclusionInput& in, const OcclusionWorkspace& ws, int object) {
  Box box = kEmpty;
  for (int other = 0; other < in.objects; ++other)
    if (in.adjacency[static_cast<std::ptrdiff_t>(object) * in.objects + other]) include(box, ws.boxes[other]);
  return box;
}

// Builds the masked depth images (2 * object - first, + 1: inter) of the objects [first, last).
void build_planes(const OcclusionInput& in, int first, int last, int levels, OcclusionWorkspace& ws,
                  const Parallel& parallel) {
  const std::size_t planes = 2 * static_cast<std::size_t>(last - first);
  reserve_size(ws.planes, planes);
  reserve_size(ws.plane_tables, planes);
  std::size_t floats = 0;
  ws.bands.clear();
  for (std::size_t p = 0; p < planes; ++p) {
    const int object = first + static_cast<int>(p / 2);
    const bool has_nodes = ws.first_node[object + 1] > ws.first_node[object];
    const Box box = !has_nodes ? kEmpty : p % 2 ? inter_box(in, ws, object) : ws.boxes[object];
    MaskedDepth& plane = ws.planes[p];
    plane = {nullptr, 0, 0, 0, 0, levels};
    if (table_size(box, levels) == 0) continue;
    plane.x0 = box.x0, plane.y0 = box.y0, plane.width = box.x1 - box.x0 + 1, plane.height = box.y1 - box.y0 + 1;
    floats += table_size(box, levels);
    const bool whole = plane.width * static_cast<std::int64_t>(plane.height) <= kWholePlane;
    const int rows = whole ? plane.height : kRowsPerBand;
    for (int row = 0; row < plane.height; row += rows)
      ws.bands.push_back({static_cast<int>(p), row, std::min(row + rows, plane.height)});
  }
  const auto area = [&](const Band& band) { return (band.last_row - band.first_row) * ws.planes[band.plane].width; };
  std::sort(ws.bands.begin(), ws.bands.end(), [&](const Band& a, const Band& b) { return area(a) > area(b); });
  reserve_size(ws.tables, floats);
  float* next = ws.tables.data();
  for (std::size_t p = 0; p < planes; ++p) {
    MaskedDepth& plane = ws.planes[p];
    ws.plane_tables[p] = next;
    plane.table = next;
    next += static_cast<std::size_t>(plane.width) * plane.height * levels;
  }
  const auto is_whole = [&](const Band& band) {
    return band.last_row - band.first_row == ws.planes[band.plane].height;
  };
  parallel_for(parallel, ws.bands.size(), [&](std::size_t i) {
    const Band& band = ws.bands[i];
    const MaskedDepth& plane = ws.planes[band.plane];
    float* table = ws.plane_tables[band.plane];
    cut_out(in, plane, table, first + band.plane / 2, band.plane % 2, band);
    for (int level = 1; is_whole(band) && level < levels; ++level) widen_windows(plane, table, level, band);
  });
  // A level reads rows of the level below that belong to other bands: the bands of a large plane keep step.
  ws.bands.erase(std::remove_if(ws.bands.begin(), ws.bands.end(), is_whole), ws.bands.end());
  if (ws.bands.empty()) return;
  for (int level = 1; level < levels; ++level)
    parallel_for(parallel, ws.bands.size(), [&](std::size_t i) {
      const Band& band = ws.bands[i];
      widen_windows(ws.planes[band.plane], ws.plane_tables[band.plane], level, band);
    });
}

// One axis of the sub-voxel grid: offset of the m-th sub-voxel's centre from the node's centre.
float grid_offset(float edge, int resolution, int m) {
  return static_cast<float>(static_cast<double>(edge) * ((m + 0.5) / resolution - 0.5));
}

void occlude_node(const OcclusionInput& in, int node, const MaskedDepth* masks, float* out) {
  const int r = in.resolution;
  const std::size_t flags = static_cast<std::size_t>(r) * r * r;
  std::fill(out, out + 2 * flags, 0.0f);
  const bool has[2] = {masks[0].width > 0, masks[1].width > 0};
  if (!has[0] && !has[1]) return;

  const float half = in.edge / static_cast<float>(r) / 2.0f;
  float low[3][kMaxOcclusionResolution], high[3][kMaxOcclusionResolution];
  for (int axis = 0; axis < 3; ++axis)
    for (int m = 0; m < r; ++m) {
      const float centre = in.centres[3 * static_cast<std::ptrdiff_t>(node) + axis] + grid_offset(in.edge, r, m);
      low[axis][m] = centre - half, high[axis][m] = centre + half;
    }
  Span columns[kMaxOcclusionResolution], rows[kMaxOcclusionResolution];
  for (int mz = 0; mz < r; ++mz) {
    const float z_near = low[2][mz], z_far = high[2][mz];
    if (!(z_near >= occlusion::kNearPlane)) continue;
    int x0 = in.width, x1 = -1, y0 = in.height, y1 = -1;
    for (int m = 0; m < r; ++m) {
      columns[m] = occlusion::make_span(low[0][m], high[0][m], z_near, z_far, in.fx, in.cx, in.width);
      rows[m] = occlusion::make_span(low[1][m], high[1][m], z_near, z_far, in.fy, in.cy, in.height);
      x0 = std::min(x0, columns[m].first), x1 = std::max(x1, columns[m].last);
      y0 = std::min(y0, rows[m].first), y1 = std::max(y1, rows[m].last);
    }
    for (int channel = 0; channel < 2; ++channel) {
      const MaskedDepth& mask = masks[channel];
      // The whole slice first: most slices in front of the object's surface, or beside it, end here.
      if (!has[channel] ||
          !(occlusion::box_minimum(mask, x0, x1, y0, y1) < z_far * (1.0f + occlusion::kRelative)))
        continue;
      float* slice = out + channel * flags + mz;
      for (int mx = 0; mx < r; ++mx)
        for (int my = 0; my < r; ++my)
          if (occlusion::is_occluded(mask, columns[mx], rows[my], z_near, z_far))
            slice[(static_cast<std::size_t>(mx) * r + my) * r] = 1.0f;
    }
  }
}

}  // namespace

const char* describe(OcclusionError error) {
  switch (error) {
    case OcclusionError::none: return "no error";
    case OcclusionError::label_out_of_range: return "labels: expected -1 or an object index below adjacency's size";
    case OcclusionError::object_out_of_range: return "object_index: expected an object index below adjacency's size";
    case OcclusionError::resolution_out_of_range: return "resolution: expected 1 .. 32";
  }
  return "unknown error";
}

OcclusionError occlusion_field(const OcclusionInput& in, float* out, OcclusionWorkspace& ws, const Parallel& parallel) {
  if (in.resolution < 1 || in.resolution > kMaxOcclusionResolution) return OcclusionError::resolution_out_of_range;
  OcclusionError error = sort_nodes(in, ws);
  if (error == OcclusionError::none) error = bound_all_masks(in, ws, parallel);
  if (error != OcclusionError::none || in.nodes == 0) return error;

  const int levels = table_levels(in);
  const std::size_t stride = 2 * static_cast<std::size_t>(in.resolution) * in.resolution * in.resolution;
  for (int first = 0; first < in.objects;) {
    int last = first;
    for (std::size_t floats = 0; last < in.objects; ++last) {
      const bool has_nodes = ws.first_node[last + 1] > ws.first_node[last];
      if (has_nodes) floats += table_size(ws.boxes[last], levels) + table_size(inter_box(in, ws, last), levels);
      if (floats > ws.table_budget && last > first) break;
    }
    build_planes(in, first, last, levels, ws, parallel);
    const int first_node = ws.first_node[first];
    parallel_for(parallel, ws.first_node[last] - first_node, [&](std::size_t i) {
      const int node = ws.node_order[first_node + i];
      occlude_node(in, node, &ws.planes[2 * static_cast<std::size_t>(in.object[node] - first)], out + node * stride);
    });
    first = last;
  }
  return OcclusionError::none;
}

}  // namespace zerograsp
