// ZG_HD marks a function that both the CPU loops and a CUDA kernel call: plain pointers, no allocation, no exceptions.
#pragma once

#if defined(__CUDACC__)
#define ZG_HD __host__ __device__ __forceinline__
#else
#define ZG_HD inline __attribute__((always_inline))
#endif
