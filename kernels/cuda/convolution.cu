// Octree convolutions as one implicit matrix product: y = activation(gathered(x) W + bias ...), where the gathered matrix
// (rows x taps * cin) exists only as tiles in shared memory.
//
// A block first reads which row of x every (tap, row) of its tile means, then walks the inner dimension in chunks: while one
// chunk is multiplied, cp.async gathers the next. Chunks whose taps no row of the tile has are skipped. At the end the
// accumulators pass through shared memory once, so that bias, residual, activation and skip features are applied to, and
// written as, consecutive outputs.
//
// What differs between the operations is where a row comes from (RowSource), a second operand (a residual block's
// shortcut), and what is added when.
#include "core/activation.h"
#include "cuda/convolution_tile.h"
#include "cuda/element.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kMaxTaps = 27;

// Which row of x output row i takes through tap k.
enum class RowSource {
  kTable,     // index[k * n + i], -1: none
  kListed,    // index[i]
  kSiblings,  // 8 index[i] + k, none where index[i] is -1
  kSame,      // i
  kGrid       // the neighbour of voxel i at direction k in its own dense grid, none outside
};

// One gathered operand and its weight.
template <class T>
struct Operand {
  const T* x;       // rows of cin
  const T* weight;  // (taps * cin, cout)
  int taps, cin;
};

template <class T>
struct Product {
  Operand<T> main, extra;  // extra.taps is 0 or 1, its rows are the output's own
  RowSource source;
  const std::int32_t* index;
  int resolution;             // of the grids
  Extent rows;                // of the product
  int children;               // 8: output row 8 i + c is row i through weight c; else 1
  int cout;
  const float* bias;          // (cout) or null
  const T* residual;          // (rows, cout) or null: added before the activation
  Activation activation;
  const T* skip;              // rows of cout or null: added after the activation,
  const std::int32_t* skip_index;  // (children * rows) row of skip, -1: none
  T* y;                       // (children * rows, cout)
};

__device__ __forceinline__ std::int32_t grid_row(std::int64_t row, int tap, int r) {
  const int cells = r * r * r, cell = static_cast<int>(row % cells);
  const int x = cell / (r * r) + tap / 9 - 1, y = cell / r % r + tap / 3 % 3 - 1, z = cell % r + tap % 3 - 1;
  if (x < 0 || y < 0 || z < 0 || x >= r || y >= r || z >= r) return -1;
  return static_cast<std::int32_t>(row - cell + (x * r + y) * r + z);
}

template <class T>
__device__ __forceinline__ std::int32_t source_row(const Product<T>& p, std::int64_t row, int tap) {
  switch (p.source) {
    case RowSource::kTable: return p.index[tap * p.rows.capacity + row];
    case RowSource::kListed: return p.index[row];
    case RowSource::kSiblings: {
      const std::int32_t rank = p.index[row];
      return rank < 0 ? -1 : 8 * rank + tap;
    }
    case RowSource::kGrid: return grid_row(row, tap, p.resolution);
    default: return static_cast<std::int32_t>(row);
  }
}

template <class T, int kColumns>
struct Tile {
  using Sum = Accumulator<T, kColumns>;
  static constexpr int kStride = kColumns + 8;  // of rows on their way out
  std::int32_t row[kMaxTaps][kTileRows];        // of main.x, -1: none
  std::uint32_t present;                        // taps that some row of the tile has
  union {
    Operands<T, kColumns> stage[kStages];
    float out[kTileWarps][Sum::kSliceRows * kStride];
  };
};

// Elements to the left of an operand's first one in the inner dimension are those of the operand before it; each starts
// with a chunk of its own.
template <class T, int kColumns>
struct Chunks {
  static constexpr int kDepth = Operands<T, kColumns>::kDepth;
  int main, all;
  __device__ __forceinline__ explicit Chunks(const Product<T>& p)
      : main((p.main.taps * p.main.cin + kDepth - 1) / kDepth),
        all(main + (p.extra.taps * p.extra.cin + kDepth - 1) / kDepth) {}

  // First chunk from `chunk` on that has anything to multiply.
  __device__ __forceinline__ int next(const Product<T>& p, std::uint32_t present, int chunk) const {
    for (; chunk < main; ++chunk) {
      const int first = chunk * kDepth / p.main.cin, last = (chunk * kDepth + kDepth - 1) / p.main.cin;
      const int taps = last - first + 1;  // some may lie beyond the last tap: those are in no row
      const std::uint32_t window = taps >= 32 ? 0xffffffffu : (1u << taps) - 1u;
      if (present >> first & window) break;
    }
    return chunk;
  }
};

// kBytes at a time: 16 or 8 asynchronously, a single element (of 2 bytes) by way of a register.
template <int kBytes, class T>
__device__ __forceinline__ void fetch(unsigned char* to, const T* from, bool valid) {
  if constexpr (kBytes >= 4) {
    copy_async<kBytes>(to, from, valid);
  } else {
    T value;
    convert(0.0f, &value);
    *reinterpret_cast<T*>(to) = valid ? *from : value;
  }
}

template <class T, int kColumns, int kBytes>
__device__ __forceinline__ void load_chunk(const Product<T>& p, Tile<T, kColumns>& tile, Operands<T, kColumns>& to,
                                           const Chunks<T, kColumns>& chunks, int chunk, std::int64_t first_row,
                                           std::int64_t rows, int first_column, int child) {
  constexpr int kDepth = Chunks<T, kColumns>::kDepth, kVector = kBytes / static_cast<int>(sizeof(T));
  constexpr int kPerRow = kDepth / kVector, kRowsAtOnce = kTileThreads / kPerRow;
  const bool is_main = chunk < chunks.main;
  const Operand<T> from = is_main ? p.main : p.extra;
  const int begin = (is_main ? chunk : chunk - chunks.main) * kDepth, depth = from.taps * from.cin;
  {
    const int column = static_cast<int>(threadIdx.x) % kPerRow * kVector, k = begin + column;
    const int tap = k / from.cin, channel = k - tap * from.cin;
    ZG_UNROLL
    for (int i = 0; i < kTileRows / kRowsAtOnce; ++i) {
      const int row = static_cast<int>(threadIdx.x) / kPerRow + i * kRowsAtOnce;
      std::int64_t source = -1;
      if (k < depth) {
        if (is_main) source = tile.row[tap][row];
        else if (first_row + row < rows) source = first_row + row;
      }
      fetch<kBytes>(to.at_a(row, column), source < 0 ? from.x : from.x + source * from.cin + channel, source >= 0);
    }
  }
  const T* weight = from.weight + static_cast<std::int64_t>(child) * depth * p.cout;
  constexpr int kWeights = kDepth * (kColumns / kVector);
  ZG_UNROLL
  for (int i = 0; i < (kWeights + kTileThreads - 1) / kTileThreads; ++i) {
    const int v = static_cast<int>(threadIdx.x) + i * kTileThreads;
    if (kWeights % kTileThreads != 0 && v >= kWeights) break;
    const int row = v / (kColumns / kVector), column = v % (kColumns / kVector) * kVector;
    const int k = begin + row, n = first_column + column;
    const bool valid = k < depth && n < p.cout;
    fetch<kBytes>(to.at_b(row, column), valid ? weight + static_cast<std::int64_t>(k) * p.cout + n : weight, valid);
  }
}

template <class T>
__device__ __forceinline__ float finish(const Product<T>& p, float sum, std::int64_t row, int column,
                                        std::int32_t skip_row) {
  if (p.bias != nullptr) sum += p.bias[column];
  if (p.residual != nullptr) sum += to_float(p.residual[row * p.cout + column]);
  sum = activate(sum, p.activation);
  if (skip_row >= 0) sum += to_float(p.skip[static_cast<std::int64_t>(skip_row) * p.cout + column]);
  return sum;
}

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// Writes one slice of a warp's accumulators, which lie in shared memory; lanes take consecutive pairs of outputs.
template <class T, int kColumns>
__device__ __forceinline__ void write_slice(const Product<T>& p, const float* from, int slice, std::int64_t first_row,
                                            std::int64_t rows, int first_column, int child) {
  using Sum = Accumulator<T, kColumns>;
  constexpr int kPairs = kColumns / 2;
  const bool paired = p.cout % 2 == 0;
  ZG_NO_UNROLL
  for (int i = threadIdx.x % 32; i < Sum::kSliceRows * kPairs; i += 32) {
    const int r = i / kPairs, c = i % kPairs * 2, column = first_column + c;
    const std::int64_t at = first_row + Sum::row_of(slice, r), row = at * p.children + child;
    if (at >= rows || column >= p.cout) continue;
    const std::int32_t skip_row = p.skip != nullptr ? p.skip_index[row] : -1;
    const float* sums = from + r * Tile<T, kColumns>::kStride + c;
    T* to = p.y + row * p.cout + column;
    Pair<T> pair;
    convert(finish(p, sums[0], row, column, skip_row), &pair.first);
    if (column + 1 < p.cout) convert(finish(p, sums[1], row, column + 1, skip_row), &pair.second);
    if (paired) {
      *reinterpret_cast<Pair<T>*>(to) = pair;
    } else {
      to[0] = pair.first;
      if (column + 1 < p.cout) to[1] = pair.second;
    }
  }
}

// Block b: tile of rows b / columns, column tile and child b % columns.
template <class T, int kColumns, int kBytes>
__global__ void __launch_bounds__(kTileThreads) convolution_kernel(const Product<T> p) {
  using Shared = Tile<T, kColumns>;
  ZG_SHARED(Shared, tile);
  const int column_tiles = (p.cout + kColumns - 1) / kColumns, across = column_tiles * p.children;
  const int part = static_cast<int>(blockIdx.x) % across;
  const std::int64_t first_row = static_cast<std::int64_t>(static_cast<int>(blockIdx.x) / across) * kTileRows;
  const int first_column = part % column_tiles * kColumns, child = part / column_tiles;
  const std::int64_t rows = p.rows.size();
  if (first_row >= rows) return;

  if (threadIdx.x == 0) tile.present = 0;
  __syncthreads();
  {
    const std::int64_t row = first_row + threadIdx.x;
    std::uint32_t present = 0;
    for (int tap = 0; tap < p.main.taps; ++tap) {
      const std::int32_t source = row < rows ? source_row(p, row, tap) : -1;
      tile.row[tap][threadIdx.x] = source;
      if (__any_sync(0xffffffffu, source >= 0)) present |= 1u << tap;
    }
    if (threadIdx.x % 32 == 0) atomicOr(&tile.present, present);
  }
  __syncthreads();

  Accumulator<T, kColumns> sum;
  sum.clear();
  const Chunks<T, kColumns> chunks(p);
  const std::uint32_t present = tile.present;
  const auto load = [&](int stage, int chunk) {
    load_chunk<T, kColumns, kBytes>(p, tile, tile.stage[stage], chunks, chunk, first_row, rows, first_column, child);
    copy_commit();
  };
  int chunk = chunks.next(p, present, 0);
  if (chunk < chunks.all) load(0, chunk);
  for (int stage = 0; chunk < chunks.all; stage ^= 1) {
    const int next = chunks.next(p, present, chunk + 1);
    if (next < chunks.all) load(stage ^ 1, next);
    else copy_commit();  // an empty group, so that the wait below means the same
    copy_wait<1>();
    __syncthreads();
    sum.multiply(tile.stage[stage]);
    __syncthreads();  // the stage may be filled again
    chunk = next;
  }

  using Sum = Accumulator<T, kColumns>;
  float* out = tile.out[threadIdx.x / 32];
  ZG_UNROLL
  for (int slice = 0; slice < Sum::kSlices; ++slice) {
    sum.store(slice, out, Shared::kStride);
    __syncwarp();
    write_slice<T, kColumns>(p, out, slice, first_row, rows, first_column, child);
    __syncwarp();
  }
}

// ---- choice of the kernel ----

template <class T, int kColumns, int kBytes>
int run(const Product<T>& p, cudaStream_t stream) {
  const std::int64_t across = static_cast<std::int64_t>(blocks_for(p.cout, kColumns)) * p.children;
  return launch(convolution_kernel<T, kColumns, kBytes>, blocks_for(p.rows.capacity, kTileRows) * across, kTileThreads,
                stream, p);
}

template <int kColumns>
constexpr int cost(int cout) {  // of the columns multiplied, and of gathering the rows once more for every tile of them
  return (cout + kColumns - 1) / kColumns * (kColumns + 32);
}

template <class T, int kBytes>
int choose_columns(const Product<T>& p, cudaStream_t stream) {
  if constexpr (kBytes == sizeof(T)) {  // odd numbers of channels are rare: two sizes do
    return p.cout <= 16 ? run<T, 16, kBytes>(p, stream) : run<T, 64, kBytes>(p, stream);
  } else {
    int columns = 64, best = cost<64>(p.cout);
    const auto consider = [&](int its_columns, int its_cost) {
      if (its_cost < best) best = its_cost, columns = its_columns;
    };
    consider(32, cost<32>(p.cout));
    consider(16, cost<16>(p.cout));
    if constexpr (sizeof(T) == 2) {  // float32 accumulators of that many columns would not fit the registers
      consider(48, cost<48>(p.cout));
      consider(96, cost<96>(p.cout));
      if (columns == 48) return run<T, 48, kBytes>(p, stream);
      if (columns == 96) return run<T, 96, kBytes>(p, stream);
    }
    if (columns == 16) return run<T, 16, kBytes>(p, stream);
    if (columns == 32) return run<T, 32, kBytes>(p, stream);
    return run<T, 64, kBytes>(p, stream);
  }
}

// The widest copies that sizes and addresses allow.
template <class T>
int multiply(const Product<T>& p, cudaStream_t stream) {
  const auto aligned = [&](int bytes) {
    const std::uintptr_t all = reinterpret_cast<std::uintptr_t>(p.main.x) | reinterpret_cast<std::uintptr_t>(p.main.weight) |
                               reinterpret_cast<std::uintptr_t>(p.extra.x) | reinterpret_cast<std::uintptr_t>(p.extra.weight) |
                               static_cast<std::uintptr_t>(p.main.cin | p.extra.cin | p.cout) * sizeof(T);
    return all % static_cast<std::uintptr_t>(bytes) == 0;
  };
  if (aligned(16)) return choose_columns<T, 16>(p, stream);
  if (aligned(8)) return choose_columns<T, 8>(p, stream);
  return choose_columns<T, static_cast<int>(sizeof(T))>(p, stream);
}

// ---- arguments ----

constexpr int kMaxChannels = 1 << 16;
constexpr std::size_t kAlignment = 256;

template <class T>
Product<T> product(const void* x, std::int64_t n, const std::int32_t* n_count, const void* weight, const float* bias,
                   int taps, int cin, int cout, int activation, void* y) {
  Product<T> p{};
  p.main = {static_cast<const T*>(x), static_cast<const T*>(weight), taps, cin};
  p.source = RowSource::kSame;
  p.rows = {n, n_count};
  p.children = 1, p.cout = cout, p.bias = bias, p.activation = static_cast<Activation>(activation);
  p.y = static_cast<T*>(y);
  return p;
}

template <class T>
int check_and_multiply(const Product<T>& p, cudaStream_t stream) {
  ZG_TRY(expect_size("taps", p.main.taps, 1, kMaxTaps));
  ZG_TRY(expect_size("cin", p.main.cin, 1, kMaxChannels));
  ZG_TRY(expect_size("cout", p.cout, 1, kMaxChannels));
  ZG_TRY(expect_size("activation", static_cast<int>(p.activation), kZgNone, kZgRelu));
  // Rows (of siblings too) are numbered in int32, and so are blocks.
  ZG_TRY(expect_size("rows", p.rows.capacity, 0, kMaxRows / (8 * blocks_for(p.cout, 16))));
  const bool any = p.rows.capacity > 0, indexed = p.source != RowSource::kSame && p.source != RowSource::kGrid;
  ZG_TRY(expect_pointer("weight", p.main.weight, any));
  ZG_TRY(expect_pointer("y", p.y, any));
  ZG_TRY(expect_pointer("neighbours, children or split_rows", p.index, any && indexed));
  ZG_TRY(expect_pointer("x", p.main.x, any && !indexed));
  ZG_TRY(expect_pointer("skip_index", p.skip_index, any && p.skip != nullptr));
  return multiply(p, stream);
}

std::size_t element_size(std::int32_t type) { return type == kZgFloat16 ? 2 : 4; }

std::size_t matrix_bytes(std::int32_t type, std::int64_t rows, int columns) {
  const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * element_size(type);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

int zg_cuda_octree_conv(int32_t type, const void* x, const int32_t* neighbours, int32_t taps, int64_t n,
                        const int32_t* n_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                        int32_t activation, void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    auto p = product<decltype(element)>(x, n, n_count, weight, bias, taps, cin, cout, activation, y);
    p.source = RowSource::kTable, p.index = neighbours;
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_downsample(int32_t type, const void* x, const int32_t* children, int64_t n, const int32_t* n_count,
                              const void* weight, const float* bias, int32_t cin, int32_t cout, int32_t activation,
                              void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    auto p = product<decltype(element)>(x, n, n_count, weight, bias, 8, cin, cout, activation, y);
    p.source = RowSource::kSiblings, p.index = children;
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_upsample(int32_t type, const void* x, const int32_t* split_rows, int64_t splits,
                            const int32_t* splits_count, const void* weight, const float* bias, int32_t cin, int32_t cout,
                            int32_t activation, const void* skip, const int32_t* skip_index, void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    auto p = product<T>(x, splits, splits_count, weight, bias, 1, cin, cout, activation, y);
    p.source = RowSource::kListed, p.index = split_rows, p.children = 8;
    p.skip = static_cast<const T*>(skip), p.skip_index = skip_index;
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_octree_linear(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* weight,
                          const float* bias, int32_t cin, int32_t cout, int32_t activation, void* y, CUstream_st* stream) {
  return with_float_type("type", type, [&](auto element) {
    return check_and_multiply(product<decltype(element)>(x, n, n_count, weight, bias, 1, cin, cout, activation, y), stream);
  });
}

size_t zg_cuda_octree_mlp_workspace(int32_t type, int64_t n, int32_t hidden) { return matrix_bytes(type, n, hidden); }

int zg_cuda_octree_mlp(int32_t type, const void* x, int64_t n, const int32_t* n_count, const void* w1, const float* b1,
                       const void* w2, const float* b2, int32_t cin, int32_t hidden, int32_t cout, void* y,
                       void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_mlp_workspace(type, n, hidden)));
  ZG_TRY(zg_cuda_octree_linear(type, x, n, n_count, w1, b1, cin, hidden, kZgGelu, workspace, stream));
  return zg_cuda_octree_linear(type, workspace, n, n_count, w2, b2, hidden, cout, kZgNone, y, stream);
}

size_t zg_cuda_octree_residual_workspace(int32_t type, int64_t n, int32_t hidden) {
  return 2 * matrix_bytes(type, n, hidden);
}

int zg_cuda_octree_residual(int32_t type, const void* x, const int32_t* neighbours, int32_t taps, int64_t n,
                            const int32_t* n_count, const void* wa, const float* ba, const void* w3, const float* b3,
                            const void* wb, const float* bb, const void* wc, int32_t cin, int32_t hidden, int32_t cout,
                            void* y, void* workspace, size_t workspace_bytes, CUstream_st* stream) {
  ZG_TRY(expect_size("hidden", hidden, 1, kMaxChannels));
  ZG_TRY(expect_size("rows", n, 0, kMaxRows));
  if (wc == nullptr && cin != cout) return invalid("wc: expected a projection of the shortcut, as cin is %d and cout %d", cin, cout);
  ZG_TRY(expect_workspace(workspace, workspace_bytes, zg_cuda_octree_residual_workspace(type, n, hidden)));
  void* first = workspace;
  void* second = static_cast<char*>(workspace) + matrix_bytes(type, n, hidden);
  ZG_TRY(zg_cuda_octree_linear(type, x, n, n_count, wa, ba, cin, hidden, kZgGelu, first, stream));
  ZG_TRY(zg_cuda_octree_conv(type, first, neighbours, taps, n, n_count, w3, b3, hidden, hidden, kZgGelu, second, stream));
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    auto p = product<T>(second, n, n_count, wb, bb, 1, hidden, cout, kZgElu, y);
    if (wc != nullptr) p.extra = {static_cast<const T*>(x), static_cast<const T*>(wc), 1, cin};
    else p.residual = static_cast<const T*>(x);
    return check_and_multiply(p, stream);
  });
}

int zg_cuda_grid_conv(int32_t type, const void* x, int64_t grids, int32_t resolution, const void* weight,
                      const float* bias, int32_t cin, int32_t cout, int32_t activation, const void* residual, void* y,
                      CUstream_st* stream) {
  ZG_TRY(expect_size("resolution", resolution, 1, 32));
  ZG_TRY(expect_size("grids", grids, 0, kMaxRows / 32768));
  return with_float_type("type", type, [&](auto element) {
    using T = decltype(element);
    const std::int64_t cells = static_cast<std::int64_t>(resolution) * resolution * resolution;
    auto p = product<T>(x, grids * cells, nullptr, weight, bias, 27, cin, cout, activation, y);
    p.source = RowSource::kGrid, p.resolution = resolution, p.residual = static_cast<const T*>(residual);
    return check_and_multiply(p, stream);
  });
}
