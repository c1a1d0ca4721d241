// Non-maximum suppression of grasps that come best first: one block, as every grasp depends on those before it.
//
// The block takes 256 grasps at a time: each thread compares its grasp with all that were kept before, then the block walks
// through the 256 in order, and every one that is still there suppresses those behind it.
//
// Decides on float32: compile with --fmad=false.
#include "core/grasp.h"
#include "cuda/error.h"
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {
namespace {

using grasp::Pose;

constexpr int kThreads = 256;

struct Candidates {
  const float* rotation;     // (n, 3, 3)
  const float* translation;  // (n, 3) m
  const std::int32_t* group;  // (n)
  Extent n;

  __device__ __forceinline__ bool same(const grasp::Sameness& limit, std::int64_t i, std::int64_t j) const {
    return group[i] == group[j] && grasp::same_grasp(limit, Pose{rotation + 9 * i, translation + 3 * i},
                                                     Pose{rotation + 9 * j, translation + 3 * j});
  }
};

struct Leader {
  std::int32_t kept;
};

// list: (n) indices of kept grasps, scratch.
__global__ void __launch_bounds__(kThreads) suppress_kernel(const Candidates grasps, const grasp::Sameness limit,
                                                            std::uint8_t* kept, std::int32_t* list) {
  ZG_SHARED(Leader, leader);
  const std::int64_t size = grasps.n.size();
  const int thread = static_cast<int>(threadIdx.x);
  std::int32_t kept_count = 0;  // the same in all threads
  for (std::int64_t begin = 0; begin < size; begin += kThreads) {
    const std::int64_t i = begin + thread;
    bool here = i < size;
    for (std::int32_t k = 0; here && k < kept_count; ++k) here = !grasps.same(limit, i, list[k]);
    const int count = size - begin < kThreads ? static_cast<int>(size - begin) : kThreads;
    for (int turn = 0; turn < count; ++turn) {
      if (thread == turn) leader.kept = here;
      __syncthreads();
      if (leader.kept) {
        if (thread == turn) list[kept_count] = static_cast<std::int32_t>(i);
        if (here && thread > turn && thread < count) here = !grasps.same(limit, i, begin + turn);
        ++kept_count;
      }
      __syncthreads();  // the next thread may take its turn, and the list be read
    }
    if (i < size) kept[i] = here;
  }
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp;
using namespace zerograsp::cuda;

size_t zg_cuda_suppress_grasps_workspace(int64_t n) { return n < 0 ? 0 : 4 * static_cast<std::size_t>(n); }

int zg_cuda_suppress_grasps(const float* rotation, const float* translation, const int32_t* group, int64_t n,
                            const int32_t* n_count, float distance, float cosine, uint8_t* kept, void* workspace,
                            size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("grasps", n, 0, kMaxRows));
  if (!(distance >= 0.0f)) return invalid("distance: expected a length in m, got %g", static_cast<double>(distance));
  if (!(cosine >= -1.0f && cosine <= 1.0f)) return invalid("cosine: expected -1 to 1, got %g", static_cast<double>(cosine));
  ZG_TRY(expect_pointer("rotation", rotation, n > 0));
  ZG_TRY(expect_pointer("translation", translation, n > 0));
  ZG_TRY(expect_pointer("group", group, n > 0));
  ZG_TRY(expect_pointer("kept", kept, n > 0));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_suppress_grasps_workspace(n)));
  const Candidates grasps = {rotation, translation, group, {n, n_count}};
  return launch(suppress_kernel, n > 0 ? 1 : 0, kThreads, stream, grasps, grasp::Sameness{distance, cosine}, kept,
                static_cast<std::int32_t*>(workspace));
}
