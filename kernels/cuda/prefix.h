// Prefix sums over an array in device memory: where each of many lists begins, from their lengths.
#pragma once
#include "cuda/block_rank.h"

namespace zerograsp {
namespace cuda {

constexpr std::int64_t kPrefixPerBlock = 4 * kRankThreads;

// Bytes of `sums` for a capacity of n values.
inline std::size_t prefix_bytes(std::int64_t n) {
  return sizeof(std::int32_t) * static_cast<std::size_t>(blocks_for(n > 0 ? n : 1, kPrefixPerBlock));
}

// Every value becomes the sum of those before it. Three kernels, as blocks cannot wait for each other.
int exclusive_prefix(std::int32_t* values, const Extent& n, std::int32_t* sums, cudaStream_t stream);

}  // namespace cuda
}  // namespace zerograsp
