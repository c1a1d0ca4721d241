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
  kZgNotFinite = 32,       // a grasp or a point is NaN, infinite or farther away than 10 km
  kZgPointsExceeded = 64   // more points in the cube than the buffer holds: the first ones were kept
};

// What was wrong with the arguments of the last call in this host thread that returned cudaErrorInvalidValue. Host memory.
ZG_API const char* zg_cuda_error(void);

// What a function's error code means: zg_cuda_error() for cudaErrorInvalidValue, else the CUDA runtime's text. Host memory.
ZG_API const char* zg_cuda_error_text(int code);

// One English sentence for the lowest bit of a status; "no error" for 0. Host memory.
ZG_API const char* zg_cuda_describe(int32_t status);

// ---- points of a frame ----

// Points of the valid masked pixels, normalised to the octree's cube and clipped to it, in raster order: points (max_points, 3),
// object (max_points); as zerograsp_edge.kernels.points_from_depth, which documents the lengths (mm). depth, labels (height,
// width); inverse (3, 3): the intrinsics' inverse, row-major. z_min (1): NaN without a valid pixel. counts (4) int32, of which
// the first is the number of points and serves as `n_count` of zg_cuda_build_octree. object_counts, object_valid_counts
// (objects): points in the cube, valid pixels. valid_labels (height, width), may be null: labels of valid pixels, else -1.
// Status: kZgLabelOutOfRange (such pixels count as background), kZgPointsExceeded.
ZG_API size_t zg_cuda_points_from_depth_workspace(int32_t height, int32_t width);
ZG_API int zg_cuda_points_from_depth(const float* depth, const int32_t* labels, int32_t height, int32_t width, int32_t objects,
                                     const float* inverse, float grid_size, float z_margin, float half_extent,
                                     float margin, float min_depth, int32_t* valid_labels, float* points,
                                     int32_t* object, int64_t max_points, float* z_min, int32_t* counts,
                                     int32_t* object_counts, int32_t* object_valid_counts, int32_t* status,
                                     void* workspace, size_t workspace_bytes, struct CUstream_st* stream);

// adjacent (objects, objects): 1 where the 5x5-dilated masks of two different objects overlap. Status: kZgLabelOutOfRange.
ZG_API int zg_cuda_adjacency(const int32_t* labels, int32_t height, int32_t width, int32_t objects, uint8_t* adjacent,
                             int32_t* status, struct CUstream_st* stream);

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

// ---- growth and build ----
//
// `counts` of a depth are four int32 in device memory: split nodes, nodes of the depth below (8 times that), nodes whose
// logits hold a NaN, and 1 where node 0 splits because no node wanted to. They serve as `..._count` of what follows. When more
// nodes split than buffers hold, status gets kZgSplitsExceeded, the first ones are kept and the others count as not split.

// Splits the nodes of a depth: node i splits when logits[rows[i], 1] > logits[rows[i], 0] (row i where rows is null; NaN and
// ties do not split), or by `forced` (nodes) where that is not null. With keep_one, node 0 splits if no other does. children
// (nodes): rank or -1. split_rows (max_splits), may be null: rows[node], or the node. next_keys (8 max_splits), may be null.
// logits (row_count, stride) of `type`.
ZG_API size_t zg_cuda_grow_workspace(int64_t nodes);
ZG_API int zg_cuda_grow(int32_t type, const void* logits, int64_t row_count, int64_t stride, const int32_t* rows,
                        const uint8_t* forced, const int64_t* keys, int64_t nodes, const int32_t* nodes_count,
                        int32_t keep_one, int32_t* children, int32_t* split_rows, int64_t max_splits, int64_t* next_keys,
                        int32_t* counts, int32_t* status, void* workspace, size_t workspace_bytes,
                        struct CUstream_st* stream);

// Octrees of all objects: points (n, 3) in [-1, 1), object (n), in any order. nodes, keys, children and split_neighbours are
// arrays in HOST memory with one entry for every depth from full_depth to depth: capacity in nodes (objects 8^full_depth at
// full_depth, multiples of 8 below) and device pointers (split_neighbours: (nodes of the depth below / 8, 27), not at `depth`).
// voxel (n): rank of the point's voxel, -1 for a point that was lost. counts (depth - full_depth + 1, 4). max_nodes of the
// workspace: the largest of `nodes`. Status: kZgPointOutOfRange, kZgObjectOutOfRange (such points are lost), kZgSplitsExceeded.
ZG_API size_t zg_cuda_build_octree_workspace(int64_t points, int64_t max_nodes);
ZG_API int zg_cuda_build_octree(const float* points, const int32_t* object, int64_t n, const int32_t* n_count,
                                int32_t objects, int32_t depth, int32_t full_depth, const int64_t* nodes,
                                int64_t max_voxels, int64_t* const* keys, int32_t* const* children,
                                int32_t* const* split_neighbours, int32_t* voxel, int32_t* counts, int32_t* status,
                                void* workspace, size_t workspace_bytes, struct CUstream_st* stream);

// ---- convolutions ----
//
// x, weights, residual, skip and y have elements of `type` (ZgType); biases are float32 and may be null. Weights are as in
// kernels/README.md, (taps, cin, cout) row-major: nothing is packed. y shares no memory with the inputs, but for `residual` of
// zg_cuda_grid_conv. Rows that are multiples of 16 bytes are fastest, multiples of 8 next.

// y (n, cout) = activation(sum over k of x[neighbours[k, i]] weight[k] + bias); neighbours (taps, n), taps <= 27.
ZG_API int zg_cuda_octree_conv(int32_t type, const void* x, const int32_t* neighbours, int32_t taps, int64_t n,
                               const int32_t* n_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                               int32_t activation, void* y, struct CUstream_st* stream);

// y (n, cout) = activation(sum over k of x[8 children[i] + k] weight[k] + bias); activation(bias) where children[i] < 0.
ZG_API int zg_cuda_octree_downsample(int32_t type, const void* x, const int32_t* children, int64_t n,
                                     const int32_t* n_count, const void* weight, const float* bias, int32_t cin,
                                     int32_t cout, int32_t activation, void* y, struct CUstream_st* stream);

// y (8 splits, cout): row 8 i + k = activation(x[split_rows[i]] weight[k] + bias) + skip[skip_index[8 i + k]], the last
// where there is a skip and its index is not -1.
ZG_API int zg_cuda_octree_upsample(int32_t type, const void* x, const int32_t* split_rows, int64_t splits,
                                   const int32_t* splits_count, const void* weight, const float* bias, int32_t cin,
                                   int32_t cout, int32_t activation, const void* skip, const int32_t* skip_index, void* y,
                                   struct CUstream_st* stream);

// y (n, cout) = activation(x weight + bias); weight (cin, cout).
ZG_API int zg_cuda_octree_linear(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* weight,
                                 const float* bias, int32_t cin, int32_t cout, int32_t activation, void* y,
                                 struct CUstream_st* stream);

// y (n, cout) = GELU(x w1 + b1) w2 + b2
ZG_API size_t zg_cuda_octree_mlp_workspace(int32_t type, int64_t n, int32_t hidden);
ZG_API int zg_cuda_octree_mlp(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* w1,
                              const float* b1, const void* w2, const float* b2, int32_t cin, int32_t hidden, int32_t cout,
                              void* y, void* workspace, size_t workspace_bytes, struct CUstream_st* stream);

// y (n, cout) = ELU(shortcut + GELU(conv(GELU(x wa + ba)) + b3) wb + bb); the shortcut is x wc, or x where wc is null.
ZG_API size_t zg_cuda_octree_residual_workspace(int32_t type, int64_t n, int32_t hidden);
ZG_API int zg_cuda_octree_residual(int32_t type, const void* x, const int32_t* neighbours, int32_t taps, int64_t n,
                                   const int32_t* n_count, const void* wa, const float* ba, const void* w3,
                                   const float* b3, const void* wb, const float* bb, const void* wc, int32_t cin,
                                   int32_t hidden, int32_t cout, void* y, void* workspace, size_t workspace_bytes,
                                   struct CUstream_st* stream);

// y (grids, r, r, r, cout) = activation(3x3x3 convolution of separate grids x (grids, r, r, r, cin), zero padding, + bias
// + residual); residual (grids, r, r, r, cout) may be null, and may be y itself.
ZG_API int zg_cuda_grid_conv(int32_t type, const void* x, int64_t grids, int32_t resolution, const void* weight,
                             const float* bias, int32_t cin, int32_t cout, int32_t activation, const void* residual,
                             void* y, struct CUstream_st* stream);

// ---- occlusion field ----

// out (nodes, 2, r, r, r) of `type`, 0 or 1: is the sub-voxel hidden by its own object, and by its neighbours? centres
// (nodes, 3) mm, camera frame; object (nodes) below `objects`; depth (height, width) mm; labels (height, width), -1: none;
// adjacency (objects, objects), [i, j] != 0: j is i's neighbour; intrinsics (3, 3) row-major without skew; edge of a node, mm;
// resolution r from 1 to 32. Status: kZgLabelOutOfRange (such pixels count as background), kZgObjectOutOfRange (such nodes get
// zeros); may be null.
ZG_API size_t zg_cuda_occlusion_field_workspace(int32_t height, int32_t width, int32_t objects);
ZG_API int zg_cuda_occlusion_field(int32_t type, const float* centres, const int32_t* object, int64_t nodes,
                                   const int32_t* nodes_count, const float* depth, const int32_t* labels, int32_t height,
                                   int32_t width, const uint8_t* adjacency, int32_t objects, const float* intrinsics,
                                   float edge, int32_t resolution, void* out, int32_t* status, void* workspace,
                                   size_t workspace_bytes, struct CUstream_st* stream);

// ---- grasps ----

// Contact-constrained width and depth of grasps (m; rotation columns approach, closing, height), points between their fingers,
// and whether they fit (values of zerograsp::grasp::Status), against points (point_count, 3) in m, in an order that decides
// ties. hand (lengths = 12): the lengths of zerograsp::grasp::Gripper in their order, HOST memory. Status: kZgNotFinite; a grasp that is not
// finite counts as empty, and with a point that is not finite no outcome is to be used. status may be null.
ZG_API size_t zg_cuda_refine_grasps_workspace(int64_t points);
ZG_API int zg_cuda_refine_grasps(const float* rotation, const float* translation, const float* width, const float* depth,
                                 int64_t n, const int32_t* n_count, const float* points, int64_t point_count,
                                 const int32_t* points_count, const float* hand, int32_t lengths, int32_t min_inner_points,
                                 float* refined_width, float* refined_depth, int32_t* inner_points, uint8_t* fit,
                                 int32_t* status, void* workspace, size_t workspace_bytes, struct CUstream_st* stream);

// kept (n): 1, or 0 for a grasp that is the same as a kept one before it in its group: closer than `distance` (m; 0 keeps all)
// and turned by less than the angle of that cosine, half turns about the approach apart. Grasps come best first.
ZG_API size_t zg_cuda_suppress_grasps_workspace(int64_t n);
ZG_API int zg_cuda_suppress_grasps(const float* rotation, const float* translation, const int32_t* group, int64_t n,
                                   const int32_t* n_count, float distance, float cosine, uint8_t* kept, void* workspace,
                                   size_t workspace_bytes, struct CUstream_st* stream);

#ifdef __cplusplus
}
#endif
