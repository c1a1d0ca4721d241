// Order of grasps by score, best first: a stable radix sort, eight bits a pass, of those that are still there.
//
// A pass counts the digits of every 1024 grasps, sums the counts over digits and blocks, and moves each grasp to its place;
// ranks among equal digits come from votes of the warps, so that the order of threads decides and not that of atomics.
#include "cuda/ordered_float.h"
#include "cuda/prefix.h"
#include "cuda/split.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kDigits = 256, kDigitBits = 8, kPasses = 32 / kDigitBits, kWarps = kRankThreads / 32;
constexpr int kRounds = 4, kPerBlock = kRounds * kRankThreads;
constexpr std::size_t kAlignment = 256;

struct Ranked {
  std::uint32_t key;  // ascending: best score first
  std::int32_t row;
};

struct Remaining {
  const std::uint8_t* removed;  // (n) or null
  __device__ __forceinline__ bool operator()(std::int64_t i, bool*, std::int32_t*) const {
    return removed == nullptr || removed[i] == 0;
  }
};

__device__ __forceinline__ std::uint32_t key_of_score(float score) {
  if (score != score) return 0xffffffffu;
  return static_cast<std::uint32_t>(ordered(-score + 0.0f)) ^ 0x80000000u;  // -0 becomes 0: they are equal
}

__global__ void __launch_bounds__(kRankThreads)
    list_kernel(const Remaining remaining, const float* score, Extent n, const std::int32_t* block_ranks, Ranked* to,
                std::int32_t* status) {
  ZG_SHARED(RankScratch, scratch);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kNodesPerBlock, size = n.size();
  if (first >= size) return;
  std::int64_t rank_of_round = block_ranks[blockIdx.x];
  for (int round = 0; round < kSplitRounds; ++round) {
    const std::int64_t i = first + round * kRankThreads + threadIdx.x;
    const bool there = i < size && remaining(i, nullptr, nullptr);
    int total;
    const std::int64_t rank = rank_of_round + block_rank(there, scratch, &total);
    rank_of_round += total;
    if (!there) continue;
    const float its_score = score[i];
    if (its_score != its_score && status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgScoreNotANumber));
    to[rank] = {key_of_score(its_score), static_cast<std::int32_t>(i)};
  }
}

__device__ __forceinline__ int digit_of(const Ranked& grasp, int pass) {
  return static_cast<int>(grasp.key >> (kDigitBits * pass) & (kDigits - 1));
}

struct Histogram {
  std::int32_t count[kDigits];
};

// counts (kDigits, blocks)
__global__ void __launch_bounds__(kRankThreads) count_digits_kernel(const Ranked* from, Extent n, int pass, std::int32_t* counts) {
  ZG_SHARED(Histogram, here);
  static_assert(kDigits == kRankThreads, "a thread for every digit");
  here.count[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock, size = n.size();
  for (int round = 0; round < kRounds; ++round) {
    const std::int64_t i = first + round * kRankThreads + threadIdx.x;
    if (i < size) atomicAdd(&here.count[digit_of(from[i], pass)], 1);
  }
  __syncthreads();
  counts[static_cast<std::int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = here.count[threadIdx.x];
}

struct Places {
  std::int32_t next[kDigits];           // where the block's next grasp of a digit goes
  std::int32_t of_warp[kWarps][kDigits];  // how many grasps of a digit a warp has, then where its first goes
};

// places (kDigits, blocks): where a block's first grasp of a digit goes. `to`: grasps, or only their rows in the last pass.
__global__ void __launch_bounds__(kRankThreads) move_kernel(const Ranked* from, Extent n, int pass, const std::int32_t* places,
                                                            Ranked* to, std::int32_t* rows) {
  ZG_SHARED(Places, here);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPerBlock, size = n.size();
  if (first >= size) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  here.next[thread] = places[static_cast<std::int64_t>(thread) * gridDim.x + blockIdx.x];
  for (int round = 0; round < kRounds; ++round) {
    for (int w = 0; w < kWarps; ++w) here.of_warp[w][thread] = 0;
    __syncthreads();
    const std::int64_t i = first + round * kRankThreads + thread;
    const bool there = i < size;
    const Ranked grasp = there ? from[i] : Ranked{0, 0};
    const int digit = digit_of(grasp, pass);
    unsigned same = __ballot_sync(0xffffffffu, there);  // lanes with this one's digit
    ZG_UNROLL
    for (int bit = 0; bit < kDigitBits; ++bit) {
      const bool set = (digit >> bit & 1) != 0;
      const unsigned votes = __ballot_sync(0xffffffffu, set);
      same &= set ? votes : ~votes;
    }
    const int before = __popc(same & ((1u << lane) - 1u));
    if (there && before == 0) here.of_warp[warp][digit] = __popc(same);
    __syncthreads();
    std::int32_t place = here.next[thread];
    for (int w = 0; w < kWarps; ++w) {
      const std::int32_t count = here.of_warp[w][thread];
      here.of_warp[w][thread] = place;
      place += count;
    }
    here.next[thread] = place;
    __syncthreads();
    if (there) {
      const std::int32_t at = here.of_warp[warp][digit] + before;
      if (rows != nullptr) rows[at] = grasp.row;
      else to[at] = grasp;
    }
    __syncthreads();
  }
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::int64_t histogram_size(std::int64_t n) { return kDigits * blocks_for(n, kPerBlock); }

std::size_t list_bytes(std::int64_t n) { return aligned(sizeof(Ranked) * static_cast<std::size_t>(n)); }

__global__ void write_count_kernel(const SplitCounts* counts, std::int32_t* to) { *to = counts->splits; }

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

size_t zg_cuda_rank_grasps_workspace(int64_t n) {
  if (n < 0) return 0;
  return kAlignment + aligned(zg_cuda_grow_workspace(n)) + 2 * list_bytes(n) +
         aligned(sizeof(std::int32_t) * static_cast<std::size_t>(histogram_size(n))) + aligned(prefix_bytes(histogram_size(n)));
}

int zg_cuda_rank_grasps(const float* score, const uint8_t* removed, int64_t n, const int32_t* n_count, int32_t* order,
                        int32_t* ranked_count, int32_t* status, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("grasps", n, 0, kMaxRows / kDigits * kPerBlock / 2));
  ZG_TRY(expect_pointer("score", score, n > 0));
  ZG_TRY(expect_pointer("order", order, n > 0));
  ZG_TRY(expect_pointer("ranked_count", ranked_count, true));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_rank_grasps_workspace(n)));
  char* scratch = static_cast<char*>(workspace);
  const auto take = [&](std::size_t bytes) {
    char* here = scratch;
    scratch += aligned(bytes);
    return here;
  };
  auto* counts = reinterpret_cast<SplitCounts*>(take(sizeof(SplitCounts)));
  auto* block_counts = reinterpret_cast<std::int32_t*>(take(zg_cuda_grow_workspace(n)));
  Ranked* lists[2];
  for (Ranked*& list : lists) list = reinterpret_cast<Ranked*>(take(list_bytes(n)));
  auto* histogram = reinterpret_cast<std::int32_t*>(take(sizeof(std::int32_t) * static_cast<std::size_t>(histogram_size(n))));
  auto* sums = reinterpret_cast<std::int32_t*>(scratch);
  const Remaining remaining = {removed};
  const Extent all = {n, n_count}, listed = {n, &counts->splits};
  const std::int64_t list_blocks = blocks_for(n, kNodesPerBlock), blocks = blocks_for(n, kPerBlock);

  ZG_TRY(cudaMemsetAsync(counts, 0, sizeof(SplitCounts), stream));
  ZG_TRY(launch(count_splits_kernel<Remaining>, list_blocks, kRankThreads, stream, remaining, all, block_counts, counts, status));
  ZG_TRY(sum_splits(block_counts, list_blocks, all, kMaxRows / 8, false, kZgSplitsExceeded, counts, status, stream));
  ZG_TRY(launch(list_kernel, list_blocks, kRankThreads, stream, remaining, score, all,
                static_cast<const std::int32_t*>(block_counts), lists[0], status));
  for (int pass = 0; pass < kPasses; ++pass) {
    const Ranked* from = lists[pass % 2];
    ZG_TRY(launch(count_digits_kernel, blocks, kRankThreads, stream, from, listed, pass, histogram));
    ZG_TRY(exclusive_prefix(histogram, Extent{histogram_size(n), nullptr}, sums, stream));
    ZG_TRY(launch(move_kernel, blocks, kRankThreads, stream, from, listed, pass, static_cast<const std::int32_t*>(histogram),
                  lists[1 - pass % 2], pass + 1 == kPasses ? order : nullptr));
  }
  return launch(write_count_kernel, 1, 1, stream, static_cast<const SplitCounts*>(counts), ranked_count);
}
