// 3D occlusion field: one thread per sub-voxel.
//
// For every object and both of its masks (its own pixels, its neighbours') a pyramid holds the smallest valid depth in cells
// of 4 x 4, 8 x 8 and 16 x 16 pixels. A thread walks down the pyramid over its sub-voxel's bounding box and sees only cells in
// which the mask has something nearer than its far face: none leaves the flag 0. A cell or pixel inside the projected far (or
// near) face and nearer than it sets the flag at once (core/occlusion_decide.h says why that is exact). Only what remains, the
// rim of an object, meets the rasteriser, triangle by triangle.
//
// Flags are decisions on float32: compile with --fmad=false.
#include "core/occlusion.h"
#include "cuda/error.h"
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {
namespace {

using occlusion::Interval;
using occlusion::Span;

constexpr int kThreads = 256, kQueryThreads = 128;
constexpr int kLevels = 3, kBaseShift = 2;  // level l has cells of 2^(kBaseShift + l) pixels

struct Pyramid {
  int width[kLevels], height[kLevels];
  std::int64_t first[kLevels + 1];  // of a level's cells in a mask's pyramid; the last: their number

  Pyramid(int image_width, int image_height) {
    first[0] = 0;
    for (int l = 0; l < kLevels; ++l) {
      const int size = 1 << (kBaseShift + l);
      width[l] = (image_width + size - 1) / size, height[l] = (image_height + size - 1) / size;
      first[l + 1] = first[l] + static_cast<std::int64_t>(width[l]) * height[l];
    }
  }
  __device__ __forceinline__ std::int64_t cells() const { return first[kLevels]; }
};

struct Image {
  const float* depth;          // mm
  const std::int32_t* labels;  // object, -1: none
  int width, height;
};

__device__ __forceinline__ float nothing() { return __int_as_float(0x7f800000); }  // +infinity

// The finest level of every object's own mask; one thread per cell.
__global__ void __launch_bounds__(kThreads) base_kernel(Image image, Pyramid shape, int objects, float* pyramids,
                                                        std::int32_t* status) {
  const std::int64_t cell = global_thread();
  if (cell >= shape.first[1]) return;
  for (int object = 0; object < objects; ++object) pyramids[object * shape.cells() + cell] = nothing();
  const int x0 = static_cast<int>(cell % shape.width[0]) << kBaseShift, y0 = static_cast<int>(cell / shape.width[0]) << kBaseShift;
  for (int y = y0; y < y0 + 4 && y < image.height; ++y)
    for (int x = x0; x < x0 + 4 && x < image.width; ++x) {
      const std::int64_t pixel = static_cast<std::int64_t>(y) * image.width + x;
      const std::int32_t label = image.labels[pixel];
      if (label == -1) continue;
      if (label < 0 || label >= objects) {
        if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgLabelOutOfRange));
        continue;
      }
      const float depth = image.depth[pixel];
      float* least = pyramids + label * shape.cells() + cell;  // no other thread has this cell
      if (depth > occlusion::kInvalidDepth && depth < *least) *least = depth;
    }
}

// The coarser levels, one thread per coarsest cell and object.
__global__ void __launch_bounds__(kThreads) coarse_kernel(Pyramid shape, int objects, float* pyramids) {
  const std::int64_t i = global_thread(), coarsest = shape.first[3] - shape.first[2];
  if (i >= objects * coarsest) return;
  float* pyramid = pyramids + i / coarsest * shape.cells();
  const int x = static_cast<int>(i % coarsest % shape.width[2]), y = static_cast<int>(i % coarsest / shape.width[2]);
  float least = nothing();
  for (int my = 2 * y; my < 2 * y + 2 && my < shape.height[1]; ++my)
    for (int mx = 2 * x; mx < 2 * x + 2 && mx < shape.width[1]; ++mx) {
      float middle = nothing();
      for (int by = 2 * my; by < 2 * my + 2 && by < shape.height[0]; ++by)
        for (int bx = 2 * mx; bx < 2 * mx + 2 && bx < shape.width[0]; ++bx)
          middle = occlusion::smaller(middle, pyramid[static_cast<std::int64_t>(by) * shape.width[0] + bx]);
      pyramid[shape.first[1] + static_cast<std::int64_t>(my) * shape.width[1] + mx] = middle;
      least = occlusion::smaller(least, middle);
    }
  pyramid[shape.first[2] + static_cast<std::int64_t>(y) * shape.width[2] + x] = least;
}

// The neighbour masks' pyramids, behind the objects' own: the smallest of the adjacent objects'.
__global__ void __launch_bounds__(kThreads) neighbour_kernel(Pyramid shape, int objects, const std::uint8_t* adjacency,
                                                             float* pyramids) {
  const std::int64_t i = global_thread();
  if (i >= objects * shape.cells()) return;
  const std::uint8_t* adjacent = adjacency + i / shape.cells() * objects;
  const std::int64_t cell = i % shape.cells();
  float least = nothing();
  for (int other = 0; other < objects; ++other)
    if (adjacent[other]) least = occlusion::smaller(least, pyramids[other * shape.cells() + cell]);
  pyramids[objects * shape.cells() + i] = least;
}

// One mask: its pyramid, and which labels belong to it.
struct Mask {
  const float* pyramid;
  const std::uint8_t* adjacent;  // null: the object's own mask
  std::int32_t object;
  int objects;

  __device__ __forceinline__ bool has(std::int32_t label) const {
    return adjacent == nullptr ? label == object : label >= 0 && label < objects && adjacent[label] != 0;
  }
};

struct Bounds {
  int x0, x1, y0, y1;  // inclusive
  __device__ __forceinline__ bool within(const Bounds& outer) const {
    return x0 >= outer.x0 && x1 <= outer.x1 && y0 >= outer.y0 && y1 <= outer.y1;
  }
};

// Calls cell(bounds, least) for the cells of every level and pixel(x, y, depth) for the mask's pixels in `box` that are
// nearer than `reach`; true as soon as one of them returns true. Cells reach beyond the box, pixels do not.
template <class Cell, class Pixel>
__device__ __forceinline__ bool search(const Image& image, const Pyramid& shape, const Mask& mask, const Bounds& box,
                                       float reach, const Cell& cell, const Pixel& pixel) {
  const auto least_of = [&](int level, int x, int y) {
    return mask.pyramid[shape.first[level] + static_cast<std::int64_t>(y) * shape.width[level] + x];
  };
  const auto bounds_of = [&](int level, int x, int y) {
    const int shift = kBaseShift + level;
    return Bounds{x << shift, ((x + 1) << shift) - 1, y << shift, ((y + 1) << shift) - 1};
  };
  for (int cy = box.y0 >> 4; cy <= box.y1 >> 4; ++cy)
    for (int cx = box.x0 >> 4; cx <= box.x1 >> 4; ++cx) {
      const float coarse = least_of(2, cx, cy);
      if (!(coarse < reach)) continue;
      if (cell(bounds_of(2, cx, cy), coarse)) return true;
      const int my1 = occlusion::smaller(2 * cy + 1, box.y1 >> 3), mx1 = occlusion::smaller(2 * cx + 1, box.x1 >> 3);
      for (int my = occlusion::larger(2 * cy, box.y0 >> 3); my <= my1; ++my)
        for (int mx = occlusion::larger(2 * cx, box.x0 >> 3); mx <= mx1; ++mx) {
          const float middle = least_of(1, mx, my);
          if (!(middle < reach)) continue;
          if (cell(bounds_of(1, mx, my), middle)) return true;
          const int by1 = occlusion::smaller(2 * my + 1, box.y1 >> 2), bx1 = occlusion::smaller(2 * mx + 1, box.x1 >> 2);
          for (int by = occlusion::larger(2 * my, box.y0 >> 2); by <= by1; ++by)
            for (int bx = occlusion::larger(2 * mx, box.x0 >> 2); bx <= bx1; ++bx) {
              const float base = least_of(0, bx, by);
              if (!(base < reach)) continue;
              if (cell(bounds_of(0, bx, by), base)) return true;
              const int y1 = occlusion::smaller(4 * by + 3, box.y1), x1 = occlusion::smaller(4 * bx + 3, box.x1);
              for (int y = occlusion::larger(4 * by, box.y0); y <= y1; ++y)
                for (int x = occlusion::larger(4 * bx, box.x0); x <= x1; ++x) {
                  const std::int64_t at = static_cast<std::int64_t>(y) * image.width + x;
                  const float depth = image.depth[at];
                  if (!(depth > occlusion::kInvalidDepth) || !(depth < reach) || !mask.has(image.labels[at])) continue;
                  if (pixel(x, y, depth)) return true;
                }
            }
        }
    }
  return false;
}

__device__ __forceinline__ bool is_occluded(const Image& image, const Pyramid& shape, const Mask& mask, const Span& sx,
                                            const Span& sy, float z_near, float z_far) {
  using namespace occlusion;
  const Bounds box = {sx.first, sx.last, sy.first, sy.last};
  if (box.x1 < box.x0 || box.y1 < box.y0) return false;
  const float reach = z_far * (1.0f + kRelative);
  const float far_sure = z_far * (1.0f - kRelative), near_sure = z_near * (1.0f - kRelative);
  const float least_area = kWellConditioned * sx.magnitude * sy.magnitude;
  // A face without enough area decides nothing: its rectangle is made empty.
  const bool far_counts = (sx.far_high - sx.far_low) * (sy.far_high - sy.far_low) > least_area;
  const bool near_counts = (sx.near_high - sx.near_low) * (sy.near_high - sy.near_low) > least_area;
  const Bounds far = {sx.far_first, far_counts ? sx.far_last : -1, sy.far_first, sy.far_last};
  const Bounds near = {sx.near_first, near_counts ? sx.near_last : -1, sy.near_first, sy.near_last};

  bool undecided = false;
  const auto decides = [&](const Bounds& area, float least) {
    return (least < far_sure && area.within(far)) || (least < near_sure && area.within(near));
  };
  const bool sure = search(image, shape, mask, box, reach, decides, [&](int x, int y, float depth) {
    undecided = true;
    return decides(Bounds{x, x, y, y}, depth);
  });
  if (sure || !undecided) return sure;

  ZG_NO_UNROLL
  for (int t = 0; t < kTriangles; ++t) {
    const int a = triangle_corner(t, 0), b = triangle_corner(t, 1), c = triangle_corner(t, 2);
    TriangleSet<1> T;
    T.ax[0] = corner_x(sx, a), T.ay[0] = corner_y(sy, a), T.az[0] = a & 1 ? z_far : z_near;
    T.bx[0] = corner_x(sx, b), T.by[0] = corner_y(sy, b), T.bz[0] = b & 1 ? z_far : z_near;
    T.cx[0] = corner_x(sx, c), T.cy[0] = corner_y(sy, c), T.cz[0] = c & 1 ? z_far : z_near;
    prepare_triangle(T, 0);
    if (!T.usable[0]) continue;
    const bool hit = search(
        image, shape, mask, box, reach, [](const Bounds&, float) { return false; },
        [&](int x, int y, float depth) {
          const float fx = static_cast<float>(x), fy = static_cast<float>(y);
          return covers(T, 0, fx, fy) && is_behind(T, 0, fx, fy, depth);
        });
    if (hit) return true;
  }
  return false;
}

struct SubVoxels {
  const float* centres;        // (nodes, 3) mm
  const std::int32_t* object;  // (nodes)
  Extent nodes;
  int resolution;
  float half;                              // mm, of a sub-voxel's edge
  float offset[kMaxOcclusionResolution];  // mm, of a sub-voxel's centre from the node's, along one axis
};

__device__ __forceinline__ void write_flag(float* to, bool flag) { *to = flag ? 1.0f : 0.0f; }
__device__ __forceinline__ void write_flag(__half* to, bool flag) { *to = __float2half(flag ? 1.0f : 0.0f); }

template <class T>
__global__ void __launch_bounds__(kQueryThreads, 4)
    field_kernel(const SubVoxels voxels, const Image image, const Pyramid shape, const std::uint8_t* adjacency, int objects,
                 const float* intrinsics, const float* pyramids, T* out, std::int32_t* status) {
  const int r = voxels.resolution, cells = r * r * r;
  const auto i = static_cast<std::uint32_t>(global_thread());  // int32 numbers them all: no 64-bit division
  const std::int64_t node = i / static_cast<std::uint32_t>(cells);
  if (node >= voxels.nodes.size()) return;
  const int cell = static_cast<int>(i % static_cast<std::uint32_t>(cells));
  const std::int32_t object = voxels.object[node];
  const int m[3] = {cell / (r * r), cell / r % r, cell % r};
  float low[3], high[3];
  ZG_UNROLL
  for (int axis = 0; axis < 3; ++axis) {
    const float centre = voxels.centres[3 * node + axis] + voxels.offset[m[axis]];
    low[axis] = centre - voxels.half, high[axis] = centre + voxels.half;
  }
  bool flags[2] = {false, false};
  if (object < 0 || object >= objects) {
    if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgObjectOutOfRange));
  } else if (low[2] >= occlusion::kNearPlane) {
    const Span sx = occlusion::make_span(low[0], high[0], low[2], high[2], intrinsics[0], intrinsics[2], image.width);
    const Span sy = occlusion::make_span(low[1], high[1], low[2], high[2], intrinsics[4], intrinsics[5], image.height);
    ZG_NO_UNROLL
    for (int channel = 0; channel < 2; ++channel) {
      const Mask mask = {pyramids + (static_cast<std::int64_t>(channel) * objects + object) * shape.cells(),
                         channel == 0 ? nullptr : adjacency + static_cast<std::int64_t>(object) * objects, object, objects};
      const bool flag = is_occluded(image, shape, mask, sx, sy, low[2], high[2]);
      if (channel == 0) flags[0] = flag; else flags[1] = flag;
    }
  }
  T* to = out + 2 * node * cells + cell;
  write_flag(to, flags[0]);
  write_flag(to + cells, flags[1]);
}

constexpr int kMaxObjects = 32767, kMaxSide = 1 << 14;

int expect_sizes(std::int64_t height, std::int64_t width, std::int64_t objects) {
  ZG_TRY(expect_size("height", height, 1, kMaxSide));
  ZG_TRY(expect_size("width", width, 1, kMaxSide));
  return expect_size("objects", objects, 0, kMaxObjects);
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

size_t zg_cuda_occlusion_field_workspace(int32_t height, int32_t width, int32_t objects) {
  if (expect_sizes(height, width, objects) != 0) return 0;
  return 2 * static_cast<std::size_t>(objects) * static_cast<std::size_t>(Pyramid(width, height).first[kLevels]) * sizeof(float);
}

int zg_cuda_occlusion_field(int32_t type, const float* centres, const int32_t* object, int64_t nodes,
                            const int32_t* nodes_count, const float* depth, const int32_t* labels, int32_t height,
                            int32_t width, const uint8_t* adjacency, int32_t objects, const float* intrinsics, float edge,
                            int32_t resolution, void* out, int32_t* status, void* workspace, size_t workspace_bytes,
                            CUstream_st* stream) {
  if (type != kZgFloat32 && type != kZgFloat16)
    return invalid("type: expected %d (float32) or %d (float16), got %d", kZgFloat32, kZgFloat16, type);
  ZG_TRY(expect_sizes(height, width, objects));
  ZG_TRY(expect_size("resolution", resolution, 1, kMaxOcclusionResolution));
  const std::int64_t cells = static_cast<std::int64_t>(resolution) * resolution * resolution;
  ZG_TRY(expect_size("nodes", nodes, 0, kMaxRows / cells));
  if (!(edge > 0.0f && edge < 1e6f)) return invalid("edge: expected a length in mm, got %g", static_cast<double>(edge));
  ZG_TRY(expect_pointer("depth", depth, true));
  ZG_TRY(expect_pointer("labels", labels, true));
  ZG_TRY(expect_pointer("intrinsics", intrinsics, true));
  ZG_TRY(expect_pointer("adjacency", adjacency, objects > 0));
  ZG_TRY(expect_pointer("centres", centres, nodes > 0));
  ZG_TRY(expect_pointer("object", object, nodes > 0));
  ZG_TRY(expect_pointer("out", out, nodes > 0));
  const std::size_t needed = zg_cuda_occlusion_field_workspace(height, width, objects);
  ZG_TRY(expect_workspace(workspace, workspace_bytes, needed));

  const Image image = {depth, labels, width, height};
  const Pyramid shape(width, height);
  float* pyramids = static_cast<float*>(workspace);
  ZG_TRY(launch(base_kernel, blocks_for(shape.first[1], kThreads), kThreads, stream, image, shape, objects, pyramids, status));
  ZG_TRY(launch(coarse_kernel, blocks_for(objects * (shape.first[3] - shape.first[2]), kThreads), kThreads, stream, shape,
                objects, pyramids));
  ZG_TRY(launch(neighbour_kernel, blocks_for(objects * shape.first[3], kThreads), kThreads, stream, shape, objects,
                adjacency, pyramids));

  SubVoxels voxels = {centres, object, {nodes, nodes_count}, resolution, edge / static_cast<float>(resolution) / 2.0f, {}};
  for (int m = 0; m < resolution; ++m)  // as the CPU kernel and the published network: in double, then rounded
    voxels.offset[m] = static_cast<float>(static_cast<double>(edge) * ((m + 0.5) / resolution - 0.5));
  const std::int64_t blocks = blocks_for(nodes * cells, kQueryThreads);
  if (type == kZgFloat16)
    return launch(field_kernel<__half>, blocks, kQueryThreads, stream, voxels, image, shape, adjacency, objects, intrinsics,
                  static_cast<const float*>(pyramids), static_cast<__half*>(out), status);
  return launch(field_kernel<float>, blocks, kQueryThreads, stream, voxels, image, shape, adjacency, objects, intrinsics,
                static_cast<const float*>(pyramids), static_cast<float*>(out), status);
}
