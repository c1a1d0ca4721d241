#include "cuda/error.h"

#include <cstdarg>
#include <cstdio>

namespace zerograsp {
namespace cuda {
namespace {
thread_local char last_error[256] = "no error";
}

int invalid(const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace zerograsp

const char* zg_cuda_error(void) { return zerograsp::cuda::last_error; }

const char* zg_cuda_error_text(int code) {
  return code == cudaErrorInvalidValue ? zg_cuda_error() : cudaGetErrorString(static_cast<cudaError_t>(code));
}

const char* zg_cuda_describe(int32_t status) {
  if (status & kZgSplitsExceeded) return "more nodes split than the buffers hold: raise the limit of nodes";
  if (status & kZgRowOutOfRange) return "rows: expected indices of rows of the logits";
  if (status & kZgLabelOutOfRange) return "labels: expected -1 or the index of an object";
  if (status & kZgObjectOutOfRange) return "object: expected the index of an object";
  if (status & kZgPointOutOfRange) return "points: expected coordinates in [-1, 1)";
  if (status & kZgNotFinite) return "grasps or points: expected finite values within +-10000 m";
  if (status & kZgPointsExceeded) return "more points than the buffer holds: raise the limit of points";
  if (status & kZgVoxelOutOfRange) return "voxel: expected indices of the voxels, and at least one point for each of them";
  if (status & kZgRowsExceeded) return "more rows of the active grid than the buffers hold: raise the limit of rows";
  if (status & kZgKeyOutOfRange) return "keys: expected nodes of the given depth and objects";
  if (status & kZgSignalNotFinite) return "the network's output is not finite; a lower precision may overflow: build it in fp32";
  if (status & kZgScoreNotANumber) return "grasps: expected scores, got NaN";
  return status == 0 ? "no error" : "unknown status";
}
