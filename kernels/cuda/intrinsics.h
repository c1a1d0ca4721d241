// Tensor-core products, loads of their fragments, and asynchronous copies into shared memory: three groups of PTX
// instructions of compute capability 8.0 and later, and the same for the CPU stand-in, which computes them from the
// fragment layouts of the PTX ISA. A warp calls the first two together.
#pragma once
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {

// c (16 x 8, float32) += a (16 x 16) b (16 x 8), both half.
__device__ __forceinline__ void multiply_16x8x16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::mma(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c (16 x 8, int32) += a (16 x 32) b (32 x 8), both int8.
__device__ __forceinline__ void multiply_16x8x32(std::int32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b) {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::mma(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices of halves (or 8 x 16 of int8); lane 8 m + r points to row r of matrix m, in shared memory.
__device__ __forceinline__ void load_fragments(std::uint32_t (&to)[4], const void* row) {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::load_matrix(to, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same, each matrix transposed on its way.
__device__ __forceinline__ void load_fragments_transposed(std::uint32_t (&to)[4], const void* row) {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::load_matrix(to, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// Starts a copy of 4, 8 or 16 bytes to shared memory; zeros instead when not `valid` (`from` is not read then).
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::async_copy(to, from, kBytes, valid ? kBytes : 0);
#else
  // The predicate form (ignore-src) becomes one instruction; a source size of 0 costs arithmetic on every address.
  asm volatile(
      "{\n.reg .pred ignore;\nsetp.eq.s32 ignore, %3, 0;\n"
      "cp.async.ca.shared.global [%0], [%1], %2, ignore;\n}\n" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
      "l"(from), "n"(kBytes), "r"(static_cast<int>(valid))
      : "memory");
#endif
}

// Closes the group of copies started since the last call.
__device__ __forceinline__ void copy_commit() {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::async_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until all of this thread's groups but the latest kPending have arrived.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
#if defined(ZEROGRASP_CUDA_ON_CPU)
  cuda_on_cpu::async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

}  // namespace cuda
}  // namespace zerograsp
