// Ranks of chosen elements within a block, without atomics: the order is that of the threads.
#pragma once
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {

constexpr int kRankThreads = 256;

struct RankScratch {
  int warp[kRankThreads / 32];
};

// How many threads before this one have `chosen`, and with `total` how many of the block. All kRankThreads threads call it;
// it ends with a barrier, so that the scratch may be used again.
__device__ __forceinline__ int block_rank(bool chosen, RankScratch& scratch, int* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned votes = __ballot_sync(0xffffffffu, chosen);
  if (lane == 0) scratch.warp[warp] = __popc(votes);
  __syncthreads();
  int before = 0, all = 0;
  ZG_UNROLL
  for (int w = 0; w < kRankThreads / 32; ++w) {
    const int votes_of_warp = scratch.warp[w];
    before += w < warp ? votes_of_warp : 0;
    all += votes_of_warp;
  }
  __syncthreads();
  *total = all;
  return before + __popc(votes & ((1u << lane) - 1u));
}

// Sum of `value` over the threads before this one, and with `total` over all of the block. As above.
__device__ __forceinline__ int block_prefix(int value, RankScratch& scratch, int* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int inclusive = value;
  ZG_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const int left = __shfl_up_sync(0xffffffffu, inclusive, step);
    if (lane >= step) inclusive += left;
  }
  if (lane == 31) scratch.warp[warp] = inclusive;
  __syncthreads();
  int before = 0, all = 0;
  ZG_UNROLL
  for (int w = 0; w < kRankThreads / 32; ++w) {
    before += w < warp ? scratch.warp[w] : 0;
    all += scratch.warp[w];
  }
  __syncthreads();
  *total = all;
  return before + inclusive - value;
}

}  // namespace cuda
}  // namespace zerograsp
