// Which nodes of a depth split, and what follows from it: ranks of the split nodes, keys of the depth below. Shared by the
// growth of the output octree (where logits decide) and the build of the input octree (where points do).
//
// Three kernels, as blocks cannot wait for each other: count the split nodes of every 1024 nodes, sum the counts, write.
#pragma once
#include "core/morton.h"
#include "cuda/api.h"
#include "cuda/block_rank.h"
#include "cuda/error.h"

namespace zerograsp {
namespace cuda {

constexpr int kSplitRounds = 4, kNodesPerBlock = kSplitRounds * kRankThreads;

// What is known of a depth, in device memory (zg_cuda_grow's `counts`).
struct SplitCounts {
  std::int32_t splits;
  std::int32_t next_nodes;  // 8 * splits
  std::int32_t nan;         // nodes whose logits hold a NaN
  std::int32_t first_only;  // no node wanted to split: node 0 does
};

// Decide: bool operator()(int64 node, bool* nan, int32* status) const.
template <class Decide>
__global__ void __launch_bounds__(kRankThreads)
    count_splits_kernel(const Decide decide, Extent nodes, std::int32_t* block_counts, SplitCounts* counts, std::int32_t* status) {
  ZG_SHARED(RankScratch, scratch);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kNodesPerBlock, size = nodes.size();
  int mine = 0, nan_here = 0;
  std::int32_t problems = 0;
  for (int round = 0; round < kSplitRounds; ++round) {
    const std::int64_t node = first + round * kRankThreads + threadIdx.x;
    if (node >= size) continue;
    bool nan = false;
    mine += decide(node, &nan, &problems) ? 1 : 0;
    nan_here += nan;
  }
  int total, nan_total;
  block_prefix(mine, scratch, &total);
  block_prefix(nan_here, scratch, &nan_total);
  if (threadIdx.x == 0) {
    block_counts[blockIdx.x] = total;
    if (nan_total > 0) atomicAdd(&counts->nan, static_cast<std::int32_t>(nan_total));
  }
  if (problems != 0 && status != nullptr) atomicOr(status, problems);
}

// block_counts become the ranks of the blocks' first split nodes; fills in `counts`. `exceeded`: the status bit for more than
// max_splits.
int sum_splits(std::int32_t* block_counts, std::int64_t blocks, const Extent& nodes, std::int64_t max_splits, bool keep_one,
               ZgStatus exceeded, SplitCounts* counts, std::int32_t* status, cudaStream_t stream);

struct SplitOutputs {
  const std::int64_t* keys;      // (nodes), null without next_keys
  const std::int32_t* rows;      // (nodes) or null: the node itself
  std::int32_t* children;        // (nodes) rank or -1
  std::int32_t* split_rows;      // (max_splits) or null
  std::int64_t* next_keys;       // (8 max_splits) or null
  std::int64_t max_splits;
};

template <class Decide>
__global__ void __launch_bounds__(kRankThreads)
    write_splits_kernel(const Decide decide, Extent nodes, const std::int32_t* block_ranks, const SplitCounts* counts,
                        const SplitOutputs out) {
  ZG_SHARED(RankScratch, scratch);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kNodesPerBlock, size = nodes.size();
  if (first >= size) return;
  std::int64_t rank_of_round = block_ranks[blockIdx.x];
  for (int round = 0; round < kSplitRounds; ++round) {
    const std::int64_t node = first + round * kRankThreads + threadIdx.x;
    bool nan = false, split = false;
    std::int32_t problems = 0;
    if (node < size) split = decide(node, &nan, &problems) || (node == 0 && counts->first_only != 0);
    int total;
    const std::int64_t rank = rank_of_round + block_rank(split, scratch, &total);
    rank_of_round += total;
    if (node >= size) continue;
    split = split && rank < out.max_splits;
    out.children[node] = split ? static_cast<std::int32_t>(rank) : -1;
    if (!split) continue;
    if (out.split_rows != nullptr) out.split_rows[rank] = out.rows != nullptr ? out.rows[node] : static_cast<std::int32_t>(node);
    if (out.next_keys != nullptr)
      for (int child = 0; child < 8; ++child) out.next_keys[8 * rank + child] = child_key(out.keys[node], child);
  }
}

// block_counts: one int32 for every kNodesPerBlock nodes of the capacity.
template <class Decide>
int split_nodes(const Decide& decide, const Extent& nodes, bool keep_one, const SplitOutputs& out, SplitCounts* counts,
                std::int32_t* status, std::int32_t* block_counts, cudaStream_t stream, ZgStatus exceeded = kZgSplitsExceeded) {
  const std::int64_t blocks = blocks_for(nodes.capacity, kNodesPerBlock);
  ZG_TRY(cudaMemsetAsync(counts, 0, sizeof(SplitCounts), stream));
  ZG_TRY(launch(count_splits_kernel<Decide>, blocks, kRankThreads, stream, decide, nodes, block_counts, counts, status));
  ZG_TRY(sum_splits(block_counts, blocks, nodes, out.max_splits, keep_one, exceeded, counts, status, stream));
  return launch(write_splits_kernel<Decide>, blocks, kRankThreads, stream, decide, nodes,
                static_cast<const std::int32_t*>(block_counts), static_cast<const SplitCounts*>(counts), out);
}

}  // namespace cuda
}  // namespace zerograsp
