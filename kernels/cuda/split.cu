#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

// One block.
__global__ void __launch_bounds__(kRankThreads)
    sum_splits_kernel(std::int32_t* block_counts, std::int64_t blocks, Extent nodes, std::int64_t max_splits, bool keep_one,
                      ZgStatus exceeded, SplitCounts* counts, std::int32_t* status) {
  ZG_SHARED(RankScratch, scratch);
  std::int64_t sum = 0;
  for (std::int64_t begin = 0; begin < blocks; begin += kRankThreads) {
    const std::int64_t i = begin + threadIdx.x;
    int total;
    const int before = block_prefix(i < blocks ? block_counts[i] : 0, scratch, &total);
    if (i < blocks) block_counts[i] = static_cast<std::int32_t>(sum + before);
    sum += total;
  }
  if (threadIdx.x != 0) return;
  const bool first_only = keep_one && sum == 0 && nodes.size() > 0;
  if (first_only) sum = 1;
  if (sum > max_splits) {
    if (status != nullptr) atomicOr(status, static_cast<std::int32_t>(exceeded));
    sum = max_splits;
  }
  counts->splits = static_cast<std::int32_t>(sum);
  counts->next_nodes = static_cast<std::int32_t>(8 * sum);
  counts->first_only = first_only;
}

}  // namespace

int sum_splits(std::int32_t* block_counts, std::int64_t blocks, const Extent& nodes, std::int64_t max_splits, bool keep_one,
               ZgStatus exceeded, SplitCounts* counts, std::int32_t* status, cudaStream_t stream) {
  return launch(sum_splits_kernel, 1, kRankThreads, stream, block_counts, blocks, nodes, max_splits, keep_one, exceeded, counts,
                status);
}

}  // namespace cuda
}  // namespace zerograsp
