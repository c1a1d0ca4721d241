// One depth of the output octree from predicted occupancy.
#include "core/octree_neighbours.h"
#include "cuda/element.h"
#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

template <class T>
struct Occupancy {
  const T* logits;  // (row_count, stride), null with `forced`
  std::int64_t row_count, stride;
  const std::int32_t* rows;    // (nodes) or null
  const std::uint8_t* forced;  // (nodes) or null

  __device__ __forceinline__ bool operator()(std::int64_t node, bool* nan, std::int32_t* status) const {
    bool split = false;
    if (logits != nullptr) {
      const std::int64_t row = rows != nullptr ? rows[node] : node;
      if (row < 0 || row >= row_count) {
        *status |= kZgRowOutOfRange;
        return false;
      }
      const float pair[2] = {to_float(logits[row * stride]), to_float(logits[row * stride + 1])};
      *nan = pair[0] != pair[0] || pair[1] != pair[1];
      split = splits(pair);
    }
    return forced != nullptr ? forced[node] != 0 : split;
  }
};

constexpr std::int64_t kMaxNodes = kMaxRows / 8;

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

size_t zg_cuda_grow_workspace(int64_t nodes) {
  return sizeof(std::int32_t) * static_cast<std::size_t>(blocks_for(nodes > 0 ? nodes : 1, kNodesPerBlock));
}

int zg_cuda_grow(int32_t type, const void* logits, int64_t row_count, int64_t stride, const int32_t* rows,
                 const uint8_t* forced, const int64_t* keys, int64_t nodes, const int32_t* nodes_count, int32_t keep_one,
                 int32_t* children, int32_t* split_rows, int64_t max_splits, int64_t* next_keys, int32_t* counts,
                 int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("nodes", nodes, 1, kMaxNodes));
  ZG_TRY(expect_size("max_splits", max_splits, 1, kMaxNodes));
  ZG_TRY(expect_size("row_count", row_count, 0, kMaxRows));
  if (logits == nullptr && forced == nullptr) return invalid("logits: expected them, or forced splits; got neither");
  if (logits != nullptr) ZG_TRY(expect_size("stride", stride, 2, kMaxRows));
  if (logits != nullptr && rows == nullptr && row_count < nodes)
    return invalid("logits: expected one row for each of %lld nodes without rows, got %lld", static_cast<long long>(nodes),
                   static_cast<long long>(row_count));
  ZG_TRY(expect_pointer("keys", keys, next_keys != nullptr));
  ZG_TRY(expect_pointer("children", children, true));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_grow_workspace(nodes)));
  const SplitOutputs out = {keys, rows, children, split_rows, next_keys, max_splits};
  const auto run = [&](auto element) {
    using T = decltype(element);
    const Occupancy<T> decide = {static_cast<const T*>(logits), row_count, stride, rows, forced};
    return split_nodes(decide, Extent{nodes, nodes_count}, keep_one != 0, out, reinterpret_cast<SplitCounts*>(counts), status,
                       static_cast<std::int32_t*>(workspace), stream);
  };
  return with_float_type("type", type, run);
}
