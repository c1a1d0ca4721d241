// The CUDA kernels as plain functions: for the TensorRT plugins, for Python through ctypes, for anyone's C++.
//
// Every function only enqueues kernels (and memsets) on `stream`: it allocates nothing, waits for nothing and reads
// nothing back, so it may be captured into a CUDA graph. All pointers are device memory unless said otherwise.
//
// Sizes. Where the data decide a size, the function takes a capacity (what the buffers hold; the launch covers it) and a
// `..._count` pointer to the actual int32 in device memory; null means that the capacity is the size. Rows beyond the count
// are neither read nor written. A tap-major table has the capacity as its row length.
//
// Errors. The functions return a cudaError_t as int: 0, or why nothing (more) was enqueued. For cudaErrorInvalidValue
// zg_cuda_error() says which argument and what was expected. What only the device sees is or-ed into the int32 `status`,
// which the caller clears (see ZgStatus) and looks at when it reads results.
//
// Workspace. Functions that need scratch take `workspace` and its size; zg_cuda_..._workspace(...) says how many bytes
// the same arguments need. Aligned to 256 bytes. Contents need not be kept between calls.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ZG_API __attribute__((visibility("default")))
#else
#define ZG_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;  // cudaStream_t is a pointer to it

// Element types of features; the numbers are those of nvinfer1::DataType. Accumulators and biases are float32 with both.
enum ZgType { kZgFloat32 = 0, kZgFloat16 = 1 };

// The numbers are those of zerograsp::Activation.
enum ZgActivation { kZgNone = 0, kZgGelu = 1, kZgElu = 2, kZgRelu = 3 };

// Bits of `status`.
enum ZgStatus {
  kZgSplitsExceeded = 1,   // more nodes split than the buffers hold: the first ones were kept
  kZgRowOutOfRange = 2,    // an entry of `rows` is no row of the logits
  kZgLabelOutOfRange = 4,  // a label is neither -1 nor an object
  kZgObjectOutOfRange = 8, // a node's object is none of the objects
  kZgPointOutOfRange = 16, // a point lies outside [-1, 1)^3 or is NaN
  kZgNotFinite = 32        // a value is NaN or infinite where a position or a pose was expected
};

// What was wrong with the arguments of the last call in this host thread that returned cudaErrorInvalidValue. Host memory.
ZG_API const char* zg_cuda_error(void);

// One English sentence for the lowest bit of a status; "no error" for 0. Host memory.
ZG_API const char* zg_cuda_describe(int32_t status);

// ---- neighbours and alignment ----

// neighbours (27, 8 splits) from split_neighbours (splits, 27); with `rank` (8 splits), node i becomes rank[i].
ZG_API int zg_cuda_expand_neighbours(const int32_t* split_neighbours, int64_t splits, const int32_t* splits_count,
                                     const int32_t* rank, int32_t* neighbours, struct CUstream_st* stream);

// rows (targets): row of every target key among the source keys, -1 if it is not there; both strictly ascending.
ZG_API int zg_cuda_align(const int64_t* source, int64_t sources, const int32_t* sources_count, const int64_t* target,
                         int64_t targets, const int32_t* targets_count, int32_t* rows, struct CUstream_st* stream);

// split_neighbours (splits, 27) of a depth from those of its parents (parent_splits, 27); children (8 parent_splits) are
// the nodes of this depth, ranks below `splits`.
ZG_API int zg_cuda_split_neighbours_from_parents(const int32_t* parents, int64_t parent_splits,
                                                 const int32_t* parent_splits_count, const int32_t* children,
                                                 int32_t* split_neighbours, int64_t splits, struct CUstream_st* stream);

// The same at a depth where every object's grid is full: children (objects 8^depth).
ZG_API int zg_cuda_split_neighbours_of_grid(int32_t depth, int64_t objects, const int32_t* children,
                                            int32_t* split_neighbours, int64_t splits, struct CUstream_st* stream);

#ifdef __cplusplus
}
#endif
