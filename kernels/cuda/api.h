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

// Element types of features; the numbers are those of nvinfer1::DataType. Biases are float32 with all, accumulators are float32
// with the first two. Only the functions ..._int8 take kZgInt8.
enum ZgType { kZgFloat32 = 0, kZgFloat16 = 1, kZgInt8 = 2 };

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
  kZgPointsExceeded = 64,  // more points than the buffer holds: the first ones were kept
  kZgVoxelOutOfRange = 128,  // a point's voxel is none of the voxels, or a voxel has no point
  kZgRowsExceeded = 256,     // more rows of the active grid than the buffers hold
  kZgKeyOutOfRange = 512,    // a key lies outside the objects' grids
  kZgSignalNotFinite = 1024, // the network's output at a node of the surface is NaN or infinite
  kZgScoreNotANumber = 2048  // a grasp that was to be ranked has a score of NaN: it comes last
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

// labels[i] = table[values[i] - low], -1 for a value outside the table (n_count: as everywhere). values: unsigned integers of 1 or
// 2 bytes, or int32, by `value_bytes`; may be `labels` where that is 4. A mask becomes labels, or labels get new
// indices: with low = -1 and the table of zg_cuda_keep_objects. Status: kZgLabelOutOfRange.
ZG_API int zg_cuda_relabel(const void* values, int32_t value_bytes, int64_t n, const int32_t* n_count, int32_t low,
                           const int32_t* table, int32_t table_size, int32_t* labels, int32_t* status,
                           struct CUstream_st* stream);

// Which objects go on: those with at least `minimum` of counts (objects). table (objects + 1): new index of label -1, 0, ...,
// objects - 1, or -1. kept (objects): the old index of every new one, -1 beyond. kept_count (1).
ZG_API int zg_cuda_keep_objects(const int32_t* counts, int32_t objects, int32_t minimum, int32_t* table, int32_t* kept,
                                int32_t* kept_count, struct CUstream_st* stream);

// adjacent (objects, objects): 1 where the 5x5-dilated masks of two different objects overlap. Status: kZgLabelOutOfRange.
ZG_API int zg_cuda_adjacency(const int32_t* labels, int32_t height, int32_t width, int32_t objects, uint8_t* adjacent,
                             int32_t* status, struct CUstream_st* stream);

// padded (padded_height, padded_width, 3): rgb (height, width, 3) with its last column and row repeated to the right and below.
ZG_API int zg_cuda_pad_image(const uint8_t* rgb, int32_t height, int32_t width, int32_t padded_height, int32_t padded_width,
                             uint8_t* padded, struct CUstream_st* stream);

// features (voxels, 3 + channels) of `type`: as zerograsp_edge.kernels.voxel_features, the local offset of the mean point, then the
// mean of the image features sampled at the voxel's points, summed in float32 in the order of the points. image_features
// (channels, padded_height, padded_width) of `image_type`, null with channels 0; what lies beyond (height, width) counts as absent.
// points (n, 3) and voxel (n) as zg_cuda_points_from_depth and zg_cuda_build_octree leave them; a voxel of -1 is a lost point.
// intrinsics (3, 3) K, z_min (1). depth: of the voxels. A voxel without points gets zeros. Status: kZgVoxelOutOfRange.
ZG_API size_t zg_cuda_voxel_features_workspace(int64_t points, int64_t voxels);
ZG_API int zg_cuda_voxel_features(int32_t image_type, const void* image_features, int32_t channels, int32_t padded_height,
                                  int32_t padded_width, const float* points, const int32_t* voxel, int64_t n,
                                  const int32_t* n_count, int64_t voxels, const int32_t* voxels_count, const float* intrinsics,
                                  const float* z_min, float half_extent, int32_t height, int32_t width, int32_t depth,
                                  int32_t type, void* features, int32_t* status, void* workspace, size_t workspace_bytes,
                                  struct CUstream_st* stream);

// Every stride-th pixel's point (m, camera frame; pixels counted row by row) where the depth is above min_depth and finite, in
// that order, written to `points` behind its first `*first` rows (null: 0): behind a surface's points, say, whose count `first`
// is. intrinsics (3, 3) K. plane: null, or four floats in HOST memory: only points with plane[0..2] . point > plane[3] count.
// max_points: rows of `points`. counts (4) int32, of which the first is the number of rows now, `*first` included. Status:
// kZgPointsExceeded.
ZG_API size_t zg_cuda_visible_points_workspace(int32_t height, int32_t width, int32_t stride);
ZG_API int zg_cuda_visible_points(const float* depth, int32_t height, int32_t width, const float* intrinsics, int32_t stride,
                                  float min_depth, const float* plane, const int32_t* first, float* points, int64_t max_points,
                                  int32_t* counts, int32_t* status, void* workspace, size_t workspace_bytes,
                                  struct CUstream_st* stream);

// ---- nodes ----

// Of nodes from their keys at `depth`; each output may be null. positions (n, 3): centres in the cube's normalised coordinates, -1
// to 1. centres (n, 3): the same in mm, camera frame; half_extent: half the cube's edge, mm; z_min (1), needed for centres.
// object (n).
ZG_API int zg_cuda_node_geometry(const int64_t* keys, int64_t n, const int32_t* n_count, int32_t depth, float half_extent,
                                 const float* z_min, float* centres, float* positions, int32_t* object,
                                 struct CUstream_st* stream);

// to (n, row_bytes): rows `rows[i]` of `from` (from_rows, from_stride), both in bytes; row_bytes <= from_stride. Status:
// kZgRowOutOfRange (such rows get zeros).
ZG_API int zg_cuda_gather_rows(const void* from, int64_t from_rows, int64_t from_stride, int32_t row_bytes, const int32_t* rows,
                               int64_t n, const int32_t* n_count, void* to, int32_t* status, struct CUstream_st* stream);

// The full grids of all objects at `depth`, reduced to the rows that differ: as zerograsp_edge.kernels.active_grid. keys (n),
// nodes with features. rows (objects 8^depth): row of every node. neighbours (27, rows): its rows have the length max_rows or,
// where `packed` is not 0, the actual number of rows. source (max_rows): index of the row's key, the number of keys if it has none.
// counts (4) int32: rows, active rows, 0, 0. Status: kZgKeyOutOfRange (such keys are left out), kZgRowsExceeded (the
// first nodes keep their rows, the others count as empty space).
ZG_API size_t zg_cuda_active_grid_workspace(int32_t objects, int32_t depth);
ZG_API int zg_cuda_active_grid(const int64_t* keys, int64_t n, const int32_t* n_count, int32_t objects, int32_t depth,
                               int32_t radius, int32_t* rows, int32_t* neighbours, int32_t* source, int64_t max_rows,
                               int32_t packed, int32_t* counts, int32_t* status, void* workspace, size_t workspace_bytes,
                               struct CUstream_st* stream);

// ---- neighbours and alignment ----

// neighbours (27, 8 splits) from split_neighbours (splits, 27); with `rank` (8 splits), node i becomes rank[i]. An entry that is
// no rank counts as -1.
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
// zg_cuda_grid_conv. Rows that are multiples of 16 bytes are fastest, multiples of 8 next. x has x_rows rows and skip skip_rows;
// an index that is none of them counts as -1, so that a table of anything reads nothing else: TensorRT times its layers with
// inputs of its own making.

// y (n, cout) = activation(sum over k of x[neighbours[k, i]] weight[k] + bias); neighbours (taps, n), taps <= 27.
ZG_API int zg_cuda_octree_conv(int32_t type, const void* x, int64_t x_rows, const int32_t* neighbours, int32_t taps, int64_t n,
                               const int32_t* n_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                               int32_t activation, void* y, struct CUstream_st* stream);

// y (n, cout) = activation(sum over k of x[8 children[i] + k] weight[k] + bias); activation(bias) where children[i] < 0.
ZG_API int zg_cuda_octree_downsample(int32_t type, const void* x, int64_t x_rows, const int32_t* children, int64_t n,
                                     const int32_t* n_count, const void* weight, const float* bias, int32_t cin,
                                     int32_t cout, int32_t activation, void* y, struct CUstream_st* stream);

// y (8 splits, cout): row 8 i + k = activation(x[split_rows[i]] weight[k] + bias) + skip[skip_index[8 i + k]], the last
// where there is a skip and its index is not -1.
ZG_API int zg_cuda_octree_upsample(int32_t type, const void* x, int64_t x_rows, const int32_t* split_rows, int64_t splits,
                                   const int32_t* splits_count, const void* weight, const float* bias, int32_t cin,
                                   int32_t cout, int32_t activation, const void* skip, int64_t skip_rows,
                                   const int32_t* skip_index, void* y, struct CUstream_st* stream);

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

// ---- int8 ----
//
// Symmetric: a value is an int8 from -127 to 127 times a scale. An activation has one scale, a float in HOST memory; weights
// have one for every output channel, weight_scale (cout) in device memory. Weights have the inner dimension last: (cout, taps,
// cin); (8, cout, cin) for zg_cuda_octree_upsample_int8. Products are summed exactly in int32; then in float32
//   y = activation(sum x_scale weight_scale + bias),
// stored as `type` says: float32, float16, or int8: y / y_scale, rounded half to even and held within +-127 (NaN becomes 0).
// y_scale counts with int8 only. Scales are positive and finite. Twins: ..._int8 in kernels/reference/convolution.py.

// y (n, channels) int8 from x of `type`, float32 or float16.
ZG_API int zg_cuda_quantize(int32_t type, const void* x, int64_t n, const int32_t* n_count, int32_t channels, float scale,
                            int8_t* y, struct CUstream_st* stream);

ZG_API int zg_cuda_octree_conv_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* neighbours, int32_t taps,
                                    int64_t n, const int32_t* n_count, const int8_t* weight, const float* weight_scale,
                                    const float* bias, int32_t cin, int32_t cout, int32_t activation, int32_t type,
                                    float y_scale, void* y, struct CUstream_st* stream);

ZG_API int zg_cuda_octree_downsample_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* children,
                                          int64_t n, const int32_t* n_count, const int8_t* weight, const float* weight_scale,
                                          const float* bias, int32_t cin, int32_t cout, int32_t activation, int32_t type,
                                          float y_scale, void* y, struct CUstream_st* stream);

// skip: of `skip_type`, with skip_scale where that is int8; added after the activation.
ZG_API int zg_cuda_octree_upsample_int8(const int8_t* x, float x_scale, int64_t x_rows, const int32_t* split_rows,
                                        int64_t splits, const int32_t* splits_count, const int8_t* weight, const float* weight_scale,
                                        const float* bias, int32_t cin, int32_t cout, int32_t activation, int32_t skip_type,
                                        float skip_scale, const void* skip, int64_t skip_rows, const int32_t* skip_index,
                                        int32_t type, float y_scale, void* y, struct CUstream_st* stream);

ZG_API int zg_cuda_octree_linear_int8(const int8_t* x, float x_scale, int64_t n, const int32_t* n_count, const int8_t* weight,
                                      const float* weight_scale, const float* bias, int32_t cin, int32_t cout,
                                      int32_t activation, int32_t type, float y_scale, void* y, struct CUstream_st* stream);

// y = GELU(x w1 + b1) w2 + b2, with the hidden values int8 of hidden_scale.
ZG_API size_t zg_cuda_octree_mlp_int8_workspace(int64_t n, int32_t hidden);
ZG_API int zg_cuda_octree_mlp_int8(const int8_t* x, float x_scale, int64_t n, const int32_t* n_count, const int8_t* w1,
                                   const float* w1_scale, const float* b1, float hidden_scale, const int8_t* w2,
                                   const float* w2_scale, const float* b2, int32_t cin, int32_t hidden, int32_t cout,
                                   int32_t type, float y_scale, void* y, void* workspace, size_t workspace_bytes,
                                   struct CUstream_st* stream);

// y = ELU(shortcut + GELU(conv(GELU(x wa + ba)) + b3) wb + bb), with both hidden values int8, of first_scale and second_scale;
// the shortcut is x wc in float32, or x where wc is null.
ZG_API size_t zg_cuda_octree_residual_int8_workspace(int64_t n, int32_t hidden, int32_t cout);
ZG_API int zg_cuda_octree_residual_int8(const int8_t* x, float x_scale, const int32_t* neighbours, int32_t taps, int64_t n,
                                        const int32_t* n_count, const int8_t* wa, const float* wa_scale, const float* ba,
                                        float first_scale, const int8_t* w3, const float* w3_scale, const float* b3,
                                        float second_scale, const int8_t* wb, const float* wb_scale, const float* bb,
                                        const int8_t* wc, const float* wc_scale, int32_t cin, int32_t hidden, int32_t cout,
                                        int32_t type, float y_scale, void* y, void* workspace, size_t workspace_bytes,
                                        struct CUstream_st* stream);

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

// Surface points and grasps of the finest depth, as zerograsp_edge.runtime.grasp.decode: row split_rows[i] of keys and of the
// signal (rows, stride) of `type`, whose 14 channels begin at column first_channel, becomes point i. keys (rows) at `depth`,
// ascending; half_extent: half the cube's edge, mm; z_min (1). points (n, 3) mm, normals (n, 3), sdf (n) mm, nodes (n, 3) integer
// coordinates; rotation (n, 3, 3) columns approach, closing, height, translation (n, 3) m, width (n), grasp_depth (n) m, score (n);
// object (n); first (objects + 1): the object's first point, and the number of points at the end. Status: kZgSignalNotFinite,
// kZgRowOutOfRange, kZgObjectOutOfRange; with any of them no output is to be used.
ZG_API int zg_cuda_decode(int32_t type, const void* signal, int64_t rows, int64_t stride, int64_t first_channel,
                          const int32_t* split_rows, const int64_t* keys, int64_t n, const int32_t* n_count, int32_t objects,
                          int32_t depth, float half_extent, const float* z_min, float* points, float* normals, float* sdf,
                          int32_t* nodes, float* rotation, float* translation, float* width, float* grasp_depth, float* score,
                          int32_t* object, int32_t* first, int32_t* status, struct CUstream_st* stream);

// order (n): rows of the grasps with removed[i] = 0 (`fit` of zg_cuda_refine_grasps serves; null: all), best score first, of equal
// scores the one that came first. ranked_count (1): how many; use it as `n_count` of zg_cuda_gather_rows and
// zg_cuda_suppress_grasps. Status: kZgScoreNotANumber.
ZG_API size_t zg_cuda_rank_grasps_workspace(int64_t n);
ZG_API int zg_cuda_rank_grasps(const float* score, const uint8_t* removed, int64_t n, const int32_t* n_count, int32_t* order,
                               int32_t* ranked_count, int32_t* status, void* workspace, size_t workspace_bytes,
                               struct CUstream_st* stream);

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
