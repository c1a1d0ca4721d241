// Where nodes lie, from their keys; and rows of any table by their numbers.
//
// Coordinates go through the normalised ones, as the published network's do: compile with --fmad=false.
#include "core/node_coordinates.h"
#include "cuda/error.h"
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct Geometry {
  float* centres;        // (n, 3) mm or null
  float* positions;      // (n, 3) normalised or null
  std::int32_t* object;  // (n) or null
};

__global__ void __launch_bounds__(kThreads) geometry_kernel(const std::int64_t* keys, Extent n, int depth, float half_extent,
                                                            const float* z_min, const Geometry out) {
  const std::int64_t i = global_thread();
  if (i >= n.size()) return;
  const NodePlace place = node_place(keys[i], depth);
  if (out.positions != nullptr)
    for (int axis = 0; axis < 3; ++axis) out.positions[3 * i + axis] = place.position[axis];
  if (out.centres != nullptr) node_centre(place, half_extent, *z_min, out.centres + 3 * i);
  if (out.object != nullptr) out.object[i] = place.object;
}

// T: a unit in which both strides and addresses come. One thread per unit.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* from, std::int64_t from_rows, std::int64_t from_stride, std::int32_t row_units, const std::int32_t* rows,
                  Extent n, T* to, std::int32_t* status) {
  const std::int64_t at = global_thread(), i = at / row_units;
  if (i >= n.size()) return;
  const std::int32_t unit = static_cast<std::int32_t>(at - i * row_units), row = rows[i];
  const bool there = row >= 0 && row < from_rows;
  to[at] = there ? from[row * from_stride + unit] : T{};
  if (!there && status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgRowOutOfRange));
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

int zg_cuda_node_geometry(const int64_t* keys, int64_t n, const int32_t* n_count, int32_t depth, float half_extent,
                          const float* z_min, float* centres, float* positions, int32_t* object, CUstream_st* stream) {
  ZG_TRY(expect_size("nodes", n, 0, kMaxRows));
  ZG_TRY(expect_size("depth", depth, 0, kMaxDepth));
  ZG_TRY(expect_pointer("keys", keys, n > 0));
  if (centres != nullptr) {
    if (!(half_extent > 0.0f)) return invalid("half_extent: expected a length in mm, got %g", static_cast<double>(half_extent));
    ZG_TRY(expect_pointer("z_min", z_min, n > 0));
  }
  return launch(geometry_kernel, blocks_for(n, kThreads), kThreads, stream, keys, Extent{n, n_count}, depth, half_extent, z_min,
                Geometry{centres, positions, object});
}

int zg_cuda_gather_rows(const void* from, int64_t from_rows, int64_t from_stride, int32_t row_bytes, const int32_t* rows, int64_t n,
                        const int32_t* n_count, void* to, int32_t* status, CUstream_st* stream) {
  ZG_TRY(expect_size("from_rows", from_rows, 0, kMaxRows));
  ZG_TRY(expect_size("row_bytes", row_bytes, 1, 1 << 20));
  ZG_TRY(expect_size("from_stride", from_stride, row_bytes, std::int64_t{1} << 31));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_pointer("from", from, n > 0 && from_rows > 0));
  ZG_TRY(expect_pointer("rows", rows, n > 0));
  ZG_TRY(expect_pointer("to", to, n > 0));
  const std::uintptr_t all = reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to) |
                             static_cast<std::uintptr_t>(from_stride) | static_cast<std::uintptr_t>(row_bytes);
  const auto run = [&](auto unit) {
    using T = decltype(unit);
    constexpr std::int64_t kBytes = sizeof(T);
    const std::int64_t blocks = blocks_for(n * (row_bytes / kBytes), kThreads);
    ZG_TRY(expect_size("blocks (rows x row_bytes)", blocks, 0, kMaxRows));
    return static_cast<int>(launch(gather_kernel<T>, blocks, kThreads, stream, static_cast<const T*>(from), from_rows,
                                   from_stride / kBytes, static_cast<std::int32_t>(row_bytes / kBytes), rows,
                                   Extent{n, n_count}, static_cast<T*>(to), status));
  };
  if (all % 8 == 0) return run(std::uint64_t{});
  if (all % 4 == 0) return run(std::uint32_t{});
  return run(std::uint8_t{});
}
