// What a kernel needs of its platform: nvcc and the CUDA runtime or, in tests, the stand-in that runs the same sources on a
// CPU (tests/kernels/cuda/cuda_on_cpu.h). Nothing else in this folder asks which of the two it is, but for the three
// groups of intrinsics in intrinsics.h.
#pragma once

#if defined(ZEROGRASP_CUDA_ON_CPU)

#include "cuda_on_cpu.h"

// A variable in shared memory, one for the block. Its type has no constructor.
#define ZG_SHARED(Type, name)          \
  static const char name##_tag = 0;    \
  Type& name = *static_cast<Type*>(cuda_on_cpu::shared_variable(&name##_tag, sizeof(Type)))

#define ZG_UNROLL
#define ZG_UNROLL_8
#define ZG_NO_UNROLL

#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define ZG_SHARED(Type, name) __shared__ Type name
#define ZG_UNROLL _Pragma("unroll")
#define ZG_UNROLL_8 _Pragma("unroll 8")
#define ZG_NO_UNROLL _Pragma("unroll 1")

#endif

#include <cstdint>

namespace zerograsp {
namespace cuda {

// kernel<<<blocks, threads, 0, stream>>>(arguments...); nothing when there are no blocks.
template <class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, std::int64_t blocks, int threads, cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
#if defined(ZEROGRASP_CUDA_ON_CPU)
  (void)stream;
  cuda_on_cpu::launch(dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                      [=] { kernel(arguments...); });
#else
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(arguments...);
#endif
  return cudaGetLastError();
}

// Blocks of `size` that cover n.
inline std::int64_t blocks_for(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// A size that the data decide: `capacity` is what the buffers hold and the launch covers, `count`, in device memory, how
// many there are; null where both are the same.
struct Extent {
  std::int64_t capacity;
  const std::int32_t* count;

  __device__ __forceinline__ std::int64_t size() const {
    if (count == nullptr) return capacity;
    const std::int64_t n = *count;
    return n < 0 ? 0 : n > capacity ? capacity : n;
  }
};

__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace cuda
}  // namespace zerograsp
