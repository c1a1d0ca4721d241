// The network's output at the finest depth as surface points and grasps: one thread per point.
//
// The meaning of the 14 channels, and what happens where no rotation is defined, is that of
// zerograsp_edge.runtime.grasp.decode. Compile with --fmad=false.
#include <cfloat>

#include "core/node_coordinates.h"
#include "cuda/element.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 128;

// Channels of the signal.
constexpr int kNormal = 0, kSdf = 3, kGraspness = 4, kClosing = 6, kApproach = 9, kDepth = 12, kWidth = 13, kChannels = 14;
constexpr float kMaxWidth = 0.1f, kMaxDepth = 0.04f;  // m; the units of width and depth

template <class T>
struct Signal {
  const T* rows;  // (count, stride)
  std::int64_t count, stride, first_channel;
  const std::int32_t* split_rows;  // (n) row of signal and keys
  const std::int64_t* keys;        // (count)
  Extent n;
};

struct Cube {
  std::int32_t objects;
  int depth;
  float half_extent;   // mm
  const float* z_min;  // mm
};

struct Surface {
  float *points, *normals, *sdf;  // mm
  std::int32_t* nodes;
  float *rotation, *translation, *width, *depth, *score;  // m
  std::int32_t *object, *first;
};

__device__ __forceinline__ float dot(const float* a, const float* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// v divided by its length; zero stays zero.
__device__ __forceinline__ void make_unit(float* v) {
  const float length = sqrtf(dot(v, v)), divisor = length > 1e-12f ? length : 1e-12f;
  for (int axis = 0; axis < 3; ++axis) v[axis] /= divisor;
}

__device__ __forceinline__ void cross(const float* a, const float* b, float* to) {
  to[0] = a[1] * b[2] - a[2] * b[1];
  to[1] = a[2] * b[0] - a[0] * b[2];
  to[2] = a[0] * b[1] - a[1] * b[0];
}

__device__ __forceinline__ float clipped(float v, float high) { return v < 0.0f ? 0.0f : v > high ? high : v; }

// rotation (3, 3): columns approach, closing, height.
__device__ __forceinline__ void grasp_rotation(const float* signal, const float* normal, float* rotation) {
  float approach[3], residual[3], height[3];
  for (int axis = 0; axis < 3; ++axis) approach[axis] = -signal[kApproach + axis];
  make_unit(approach);
  if (dot(approach, approach) < 0.5f)
    for (int axis = 0; axis < 3; ++axis) approach[axis] = -normal[axis];
  const float* tangent = signal + kClosing;
  const float along = dot(approach, tangent);
  for (int axis = 0; axis < 3; ++axis) residual[axis] = tangent[axis] - approach[axis] * along;
  if (sqrtf(dot(residual, residual)) <= 1e-6f * sqrtf(dot(tangent, tangent))) {
    // No closing direction, or one parallel to the approach: any perpendicular one.
    int smallest = fabsf(approach[1]) < fabsf(approach[0]) ? 1 : 0;
    if (fabsf(approach[2]) < (smallest == 1 ? fabsf(approach[1]) : fabsf(approach[0]))) smallest = 2;
    const float unit[3] = {smallest == 0 ? 1.0f : 0.0f, smallest == 1 ? 1.0f : 0.0f, smallest == 2 ? 1.0f : 0.0f};
    cross(approach, unit, residual);
  }
  make_unit(residual);
  cross(approach, residual, height);
  for (int axis = 0; axis < 3; ++axis)
    rotation[3 * axis] = approach[axis], rotation[3 * axis + 1] = residual[axis], rotation[3 * axis + 2] = height[axis];
}

template <class T>
__device__ __forceinline__ std::int64_t row_of(const Signal<T>& signal, std::int64_t i) {
  const std::int32_t row = signal.split_rows[i];
  return row >= 0 && row < signal.count ? row : -1;
}

// Object of point i, as the ends see it: -1 before the first point, `objects` behind the last.
template <class T>
__device__ __forceinline__ std::int32_t object_of(const Signal<T>& signal, std::int64_t i, std::int64_t n, std::int32_t objects) {
  if (i < 0) return -1;
  if (i >= n) return objects;
  const std::int64_t row = row_of(signal, i), object = row < 0 ? 0 : signal.keys[row] >> kObjectShift;
  return object < 0 ? 0 : object < objects ? static_cast<std::int32_t>(object) : objects;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const Signal<T> signal, const Cube cube, const Surface out, std::int32_t* status) {
  const std::int64_t i = global_thread(), n = signal.n.size();
  if (i > n) return;
  // One thread more than points: every object begins where the first point of it or of a later one is.
  const std::int32_t here = object_of(signal, i, n, cube.objects);
  for (std::int32_t o = object_of(signal, i - 1, n, cube.objects) + 1; o <= here; ++o) out.first[o] = static_cast<std::int32_t>(i);
  if (i == n) return;

  std::int32_t problems = 0;
  const std::int64_t row = row_of(signal, i);
  if (row < 0) problems |= kZgRowOutOfRange;
  float channel[kChannels];
  bool finite = true;
  for (int c = 0; c < kChannels; ++c) {
    channel[c] = row < 0 ? 0.0f : to_float(signal.rows[row * signal.stride + signal.first_channel + c]);
    finite = finite && fabsf(channel[c]) <= FLT_MAX;
  }
  if (!finite) problems |= kZgSignalNotFinite;
  const NodePlace place = node_place(row < 0 ? 0 : signal.keys[row], cube.depth);
  if (place.object < 0 || place.object >= cube.objects) problems |= kZgObjectOutOfRange;
  if (problems != 0 && status != nullptr) atomicOr(status, problems);

  float centre[3];
  node_centre(place, cube.half_extent, *cube.z_min, centre);
  float normal[3] = {channel[kNormal], channel[kNormal + 1], channel[kNormal + 2]};
  make_unit(normal);
  for (int axis = 0; axis < 3; ++axis) {
    const float point = centre[axis] - normal[axis] * channel[kSdf];
    out.points[3 * i + axis] = point;
    out.normals[3 * i + axis] = normal[axis];
    out.nodes[3 * i + axis] = place.node[axis];
    out.translation[3 * i + axis] = point / 1000.0f;
  }
  out.sdf[i] = channel[kSdf];
  grasp_rotation(channel, normal, out.rotation + 9 * i);
  out.width[i] = clipped(channel[kWidth] * kMaxWidth, kMaxWidth);
  out.depth[i] = clipped(channel[kDepth] * kMaxDepth, kMaxDepth);
  out.score[i] = channel[kGraspness];
  out.object[i] = place.object;
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

int zg_cuda_decode(int32_t type, const void* signal, int64_t rows, int64_t stride, int64_t first_channel,
                   const int32_t* split_rows, const int64_t* keys, int64_t n, const int32_t* n_count, int32_t objects,
                   int32_t depth, float half_extent, const float* z_min, float* points, float* normals, float* sdf, int32_t* nodes,
                   float* rotation, float* translation, float* width, float* grasp_depth, float* score, int32_t* object,
                   int32_t* first, int32_t* status, CUstream_st* stream) {
  ZG_TRY(expect_size("rows", rows, 0, kMaxRows));
  ZG_TRY(expect_size("first_channel", first_channel, 0, kMaxRows));
  ZG_TRY(expect_size("stride", stride, first_channel + kChannels, kMaxRows));
  ZG_TRY(expect_size("points", n, 0, kMaxRows - 1));
  ZG_TRY(expect_size("objects", objects, 1, 32767));
  ZG_TRY(expect_size("depth", depth, 0, zerograsp::kMaxDepth));
  if (!(half_extent > 0.0f)) return invalid("half_extent: expected a length in mm, got %g", static_cast<double>(half_extent));
  ZG_TRY(expect_pointer("first", first, true));
  const void* const needed[] = {split_rows, keys, z_min, points, normals, sdf, nodes, rotation, translation,
                                width, grasp_depth, score, object};
  const char* const names[] = {"split_rows", "keys", "z_min", "points", "normals", "sdf", "nodes", "rotation", "translation",
                               "width", "grasp_depth", "score", "object"};
  for (int k = 0; k < 13; ++k) ZG_TRY(expect_pointer(names[k], needed[k], n > 0));
  ZG_TRY(expect_pointer("signal", signal, n > 0 && rows > 0));
  const Cube cube = {objects, depth, half_extent, z_min};
  const Surface out = {points, normals, sdf, nodes, rotation, translation, width, grasp_depth, score, object, first};
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    const Signal<T> from = {static_cast<const T*>(signal), rows, stride, first_channel, split_rows, keys, {n, n_count}};
    return static_cast<int>(launch(decode_kernel<T>, blocks_for(n + 1, kThreads), kThreads, stream, from, cube, out, status));
  });
}
