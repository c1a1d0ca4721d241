// The kernel behind all octree convolutions: y = activation(gathered(x) W + bias ...) as one implicit matrix product, where the
// gathered matrix (rows x taps * cin) exists only as tiles in shared memory.
//
// A block first reads which row of x every (tap, row) of its tile means, then walks the inner dimension in chunks: while one
// chunk is multiplied, cp.async gathers the next. Chunks whose taps no row of the tile has are skipped. At the end the
// accumulators pass through shared memory once, so that bias, residual, activation and skip features are applied to, and
// written as, consecutive outputs.
//
// What differs between the operations is where a row comes from (RowSource), a second operand (a residual block's
// shortcut), and what is added when; between element types, the tile (convolution_tile.h) and how rows are read and
// written in the epilogue (Features).
#pragma once
#include "core/activation.h"
#include "cuda/convolution_tile.h"
#include "cuda/element.h"

namespace zerograsp {
namespace cuda {

constexpr int kMaxTaps = 27;

// Which row of x output row i takes through tap k. An index that is none of x's rows counts as -1: whatever a table holds,
// nothing outside x is read.
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
  const T* weight;  // (taps * cin, cout), in int8 (cout, taps * cin); one after the other where output rows have eight children
  int taps, cin;
};

// Rows of features that the epilogue adds and writes.
template <class T>
struct Features {
  const T* data;

  __device__ __forceinline__ bool there() const { return data != nullptr; }
  __device__ __forceinline__ float at(std::int64_t i) const { return to_float(data[i]); }
};

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

template <class T>
struct Destination {
  T* data;

  __device__ __forceinline__ void write(std::int64_t i, float v) const { convert(v, data + i); }
  __device__ __forceinline__ void write_pair(std::int64_t i, float first, float second) const {
    Pair<T> pair;
    convert(first, &pair.first);
    convert(second, &pair.second);
    *reinterpret_cast<Pair<T>*>(data + i) = pair;
  }
};

// Beside a convolution in int8 features have any type, and int8 ones a scale.
template <>
struct Features<std::int8_t> {
  const void* data;
  std::int32_t type;  // ZgType
  float scale;

  __device__ __forceinline__ bool there() const { return data != nullptr; }
  __device__ __forceinline__ float at(std::int64_t i) const {
    if (type == kZgInt8) return scale * static_cast<float>(static_cast<const std::int8_t*>(data)[i]);
    return type == kZgFloat16 ? to_float(static_cast<const __half*>(data)[i]) : static_cast<const float*>(data)[i];
  }
};

template <>
struct Destination<std::int8_t> {
  void* data;
  std::int32_t type;
  float scale;

  __device__ __forceinline__ void write(std::int64_t i, float v) const {
    if (type == kZgInt8) static_cast<std::int8_t*>(data)[i] = quantized(v, scale);
    else if (type == kZgFloat16) convert(v, static_cast<__half*>(data) + i);
    else static_cast<float*>(data)[i] = v;
  }
  __device__ __forceinline__ void write_pair(std::int64_t i, float first, float second) const {
    if (type == kZgInt8)
      *reinterpret_cast<Pair<std::int8_t>*>(static_cast<std::int8_t*>(data) + i) = {quantized(first, scale), quantized(second, scale)};
    else if (type == kZgFloat16)
      Destination<__half>{static_cast<__half*>(data)}.write_pair(i, first, second);
    else
      Destination<float>{static_cast<float*>(data)}.write_pair(i, first, second);
  }
};

// What a product in int8 is multiplied by; nothing with the other types.
template <class T>
struct Scales {
  __device__ __forceinline__ float apply(float sum, int) const { return sum; }
};

template <>
struct Scales<std::int8_t> {
  float x;              // of the rows
  const float* weight;  // (cout)

  __device__ __forceinline__ float apply(float sum, int column) const { return sum * (x * weight[column]); }
};

template <class T>
struct Product {
  Operand<T> main, extra;  // extra.taps is 0 or 1, its rows are the output's own
  RowSource source;
  const std::int32_t* index;
  std::uint32_t indexed_rows;  // of main.x
  int resolution;             // of the grids
  Extent rows;                // of the product
  int children;               // 8: output row 8 i + c is row i through weight c; else 1
  int cout;
  Scales<T> scales;
  const float* bias;          // (cout) or null
  Features<T> residual;       // (rows, cout) or null: added before the activation
  Activation activation;
  Features<T> skip;           // rows of cout or null: added after the activation,
  const std::int32_t* skip_index;  // (children * rows) row of skip, -1: none
  std::uint32_t skip_rows;
  Destination<T> y;           // (children * rows, cout)
};

__device__ __forceinline__ std::int32_t grid_row(std::int64_t row, int tap, int r) {
  const int cells = r * r * r, cell = static_cast<int>(row % cells);
  const int x = cell / (r * r) + tap / 9 - 1, y = cell / r % r + tap / 3 % 3 - 1, z = cell % r + tap % 3 - 1;
  if (x < 0 || y < 0 || z < 0 || x >= r || y >= r || z >= r) return -1;
  return static_cast<std::int32_t>(row - cell + (x * r + y) * r + z);
}

// The index, or -1 where it is none of 0..rows - 1.
__device__ __forceinline__ std::int32_t within(std::int32_t index, std::uint32_t rows) {
  return static_cast<std::uint32_t>(index) < rows ? index : -1;
}

template <class T>
__device__ __forceinline__ std::int32_t source_row(const Product<T>& p, std::int64_t row, int tap) {
  switch (p.source) {
    case RowSource::kTable: return within(p.index[tap * p.rows.capacity + row], p.indexed_rows);
    case RowSource::kListed: return within(p.index[row], p.indexed_rows);
    case RowSource::kSiblings: {
      const std::int32_t rank = within(p.index[row], p.indexed_rows / 8);
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

// kBytes at a time: 16, 8 or 4 asynchronously, a single element of 1 or 2 bytes by way of a register.
template <int kBytes, class T>
__device__ __forceinline__ void fetch(unsigned char* to, const T* from, bool valid) {
  if constexpr (kBytes >= 4) {
    copy_async<kBytes>(to, from, valid);
  } else {
    *reinterpret_cast<T*>(to) = valid ? *from : T{};
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
    ZG_UNROLL_8
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
  constexpr bool kByOutput = Operands<T, kColumns>::kByOutput;  // an output's weights lie together
  constexpr int kAcross = (kByOutput ? kDepth : kColumns) / kVector, kWeights = (kByOutput ? kColumns : kDepth) * kAcross;
  ZG_UNROLL_8
  for (int i = 0; i < (kWeights + kTileThreads - 1) / kTileThreads; ++i) {
    const int v = static_cast<int>(threadIdx.x) + i * kTileThreads;
    if (kWeights % kTileThreads != 0 && v >= kWeights) break;
    const int row = v / kAcross, column = v % kAcross * kVector;
    const int k = begin + (kByOutput ? column : row), n = first_column + (kByOutput ? row : column);
    const bool valid = k < depth && n < p.cout;
    const std::int64_t at = kByOutput ? static_cast<std::int64_t>(n) * depth + k : static_cast<std::int64_t>(k) * p.cout + n;
    fetch<kBytes>(to.at_b(row, column), valid ? weight + at : weight, valid);
  }
}

template <class T>
__device__ __forceinline__ float finish(const Product<T>& p, float sum, std::int64_t row, int column,
                                        std::int32_t skip_row) {
  sum = p.scales.apply(sum, column);
  if (p.bias != nullptr) sum += p.bias[column];
  if (p.residual.there()) sum += p.residual.at(row * p.cout + column);
  sum = activate(sum, p.activation);
  if (skip_row >= 0) sum += p.skip.at(static_cast<std::int64_t>(skip_row) * p.cout + column);
  return sum;
}

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
    const std::int32_t skip_row = p.skip.there() ? within(p.skip_index[row], p.skip_rows) : -1;
    const float* sums = from + r * Tile<T, kColumns>::kStride + c;
    const std::int64_t to = row * p.cout + column;
    const float first = finish(p, sums[0], row, column, skip_row);
    const float second = column + 1 < p.cout ? finish(p, sums[1], row, column + 1, skip_row) : 0.0f;
    if (paired) {
      p.y.write_pair(to, first, second);
    } else {
      p.y.write(to, first);
      if (column + 1 < p.cout) p.y.write(to + 1, second);
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
    if constexpr (sizeof(T) <= 2) {  // accumulators of float32 operands would not fit the registers
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
    const int columns = Operands<T, 16>::kByOutput ? 0 : p.cout;
    const std::uintptr_t all = reinterpret_cast<std::uintptr_t>(p.main.x) | reinterpret_cast<std::uintptr_t>(p.main.weight) |
                               reinterpret_cast<std::uintptr_t>(p.extra.x) | reinterpret_cast<std::uintptr_t>(p.extra.weight) |
                               static_cast<std::uintptr_t>(p.main.cin | p.extra.cin | columns) * sizeof(T);
    return all % static_cast<std::uintptr_t>(bytes) == 0;
  };
  if (aligned(16)) return choose_columns<T, 16>(p, stream);
  if (aligned(8)) return choose_columns<T, 8>(p, stream);
  if constexpr (sizeof(T) == 1)
    if (aligned(4)) return choose_columns<T, 4>(p, stream);
  return choose_columns<T, static_cast<int>(sizeof(T))>(p, stream);
}

// ---- arguments ----

constexpr int kMaxChannels = 1 << 16, kMaxSummands = ((1u << 31) - 1) / (128 * 128);
constexpr std::size_t kAlignment = 256;

template <class T>
Product<T> product(const void* x, std::int64_t n, const std::int32_t* n_count, const void* weight, const float* bias,
                   int taps, int cin, int cout, int activation, const Destination<T>& y) {
  Product<T> p{};
  p.main = {static_cast<const T*>(x), static_cast<const T*>(weight), taps, cin};
  p.source = RowSource::kSame;
  p.rows = {n, n_count};
  p.children = 1, p.cout = cout, p.bias = bias, p.activation = static_cast<Activation>(activation);
  p.y = y;
  return p;
}

template <class T>
int take_rows(Product<T>& p, RowSource source, const std::int32_t* index, std::int64_t x_rows) {
  ZG_TRY(expect_size("x_rows", x_rows, 0, kMaxRows));
  p.source = source, p.index = index, p.indexed_rows = static_cast<std::uint32_t>(x_rows);
  return 0;
}

template <class T>
int add_skip(Product<T>& p, const Features<T>& skip, const std::int32_t* index, std::int64_t skip_rows) {
  if (skip.there()) ZG_TRY(expect_size("skip_rows", skip_rows, 0, kMaxRows));
  p.skip = skip, p.skip_index = index, p.skip_rows = static_cast<std::uint32_t>(skip.there() ? skip_rows : 0);
  return 0;
}

template <class T>
int check_and_multiply(const Product<T>& p, cudaStream_t stream) {
  ZG_TRY(expect_size("taps", p.main.taps, 1, kMaxTaps));
  // An int32 sum of int8 products holds this many.
  ZG_TRY(expect_size("cin", p.main.cin, 1, sizeof(T) == 1 ? kMaxSummands / p.main.taps : kMaxChannels));
  ZG_TRY(expect_size("cout", p.cout, 1, kMaxChannels));
  ZG_TRY(expect_size("activation", static_cast<int>(p.activation), kZgNone, kZgRelu));
  // Rows (of siblings too) are numbered in int32, and so are blocks.
  ZG_TRY(expect_size("rows", p.rows.capacity, 0, kMaxRows / (8 * blocks_for(p.cout, 16))));
  const bool any = p.rows.capacity > 0, indexed = p.source != RowSource::kSame && p.source != RowSource::kGrid;
  ZG_TRY(expect_pointer("weight", p.main.weight, any));
  ZG_TRY(expect_pointer("y", p.y.data, any));
  ZG_TRY(expect_pointer("neighbours, children or split_rows", p.index, any && indexed));
  ZG_TRY(expect_pointer("x", p.main.x, any && !indexed));
  ZG_TRY(expect_pointer("skip_index", p.skip_index, any && p.skip.there()));
  return multiply(p, stream);
}

}  // namespace cuda
}  // namespace zerograsp
