#include "cuda/prefix.h"

#include "cuda/error.h"

namespace zerograsp {
namespace cuda {
namespace {

// Values become sums within their block; the block's own goes to `sums`.
__global__ void __launch_bounds__(kRankThreads) prefix_of_blocks_kernel(std::int32_t* values, Extent n, std::int32_t* sums) {
  ZG_SHARED(RankScratch, scratch);
  const std::int64_t size = n.size();
  int sum = 0;
  for (int round = 0; round < kPrefixPerBlock / kRankThreads; ++round) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kPrefixPerBlock + round * kRankThreads + threadIdx.x;
    int total;
    const int before = block_prefix(i < size ? values[i] : 0, scratch, &total);
    if (i < size) values[i] = sum + before;
    sum += total;
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block.
__global__ void __launch_bounds__(kRankThreads) prefix_of_sums_kernel(std::int32_t* sums, std::int64_t blocks) {
  ZG_SHARED(RankScratch, scratch);
  int sum = 0;
  for (std::int64_t begin = 0; begin < blocks; begin += kRankThreads) {
    const std::int64_t i = begin + threadIdx.x;
    int total;
    const int before = block_prefix(i < blocks ? sums[i] : 0, scratch, &total);
    if (i < blocks) sums[i] = sum + before;
    sum += total;
  }
}

__global__ void __launch_bounds__(kRankThreads) add_sums_kernel(std::int32_t* values, Extent n, const std::int32_t* sums) {
  const std::int64_t i = global_thread();
  if (i < n.size()) values[i] += sums[i / kPrefixPerBlock];
}

}  // namespace

int exclusive_prefix(std::int32_t* values, const Extent& n, std::int32_t* sums, cudaStream_t stream) {
  const std::int64_t blocks = blocks_for(n.capacity, kPrefixPerBlock);
  ZG_TRY(launch(prefix_of_blocks_kernel, blocks, kRankThreads, stream, values, n, sums));
  if (blocks <= 1) return cudaSuccess;
  ZG_TRY(launch(prefix_of_sums_kernel, 1, kRankThreads, stream, sums, blocks));
  return launch(add_sums_kernel, blocks_for(n.capacity, kRankThreads), kRankThreads, stream, values, n,
                static_cast<const std::int32_t*>(sums));
}

}  // namespace cuda
}  // namespace zerograsp
