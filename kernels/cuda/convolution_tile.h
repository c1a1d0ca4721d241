// The tile of the implicit matrix product that all octree convolutions are: operands in shared memory, products on tensor
// cores (half, int8) or in plain float32, accumulators in float32 or (of int8) int32 registers.
//
// A block of 128 threads computes 128 rows x kColumns outputs. The inner dimension (tap, input channel) is walked in chunks
// of 64 bytes a row: a (128 rows) is gathered, b (the weight's rows) is contiguous. Rows in shared memory are 16 bytes longer
// than their data, so that the eight rows of a fragment lie in different banks; those of int8 are swizzled to that end.
#pragma once
#include "cuda/intrinsics.h"

namespace zerograsp {
namespace cuda {

constexpr int kTileRows = 128, kTileThreads = 128, kTileWarps = kTileThreads / 32;
constexpr int kChunkBytes = 64, kPadBytes = 16, kStages = 2;

template <class T, int kColumns>
struct Operands {
  static constexpr bool kByOutput = false;  // b: a row for every inner element
  static constexpr int kDepth = kChunkBytes / sizeof(T);  // inner elements of a chunk
  static constexpr int kRowBytesA = kChunkBytes + kPadBytes;
  static constexpr int kRowBytesB = kColumns * sizeof(T) + kPadBytes;
  alignas(16) unsigned char a[kTileRows * kRowBytesA];
  alignas(16) unsigned char b[kDepth * kRowBytesB];

  __device__ __forceinline__ unsigned char* at_a(int row, int k) { return a + row * kRowBytesA + k * static_cast<int>(sizeof(T)); }
  __device__ __forceinline__ unsigned char* at_b(int k, int column) { return b + k * kRowBytesB + column * static_cast<int>(sizeof(T)); }
};

// In int8 a fragment of b has four inner elements of an output in one register. Nothing in shared memory can be transposed by
// bytes, so the weight comes that way already: b has a row for every output. The 16-byte parts of a row change places
// with the row's number, which leaves no bank to two rows of a fragment and needs no padding.
template <int kColumns>
struct Operands<std::int8_t, kColumns> {
  static constexpr bool kByOutput = true;
  static constexpr int kDepth = kChunkBytes;
  alignas(16) unsigned char a[kTileRows * kChunkBytes];
  alignas(16) unsigned char b[kColumns * kChunkBytes];

  static __device__ __forceinline__ int offset(int row, int k) { return row * kChunkBytes + (k ^ (row >> 1 & 3) << 4); }
  __device__ __forceinline__ unsigned char* at_a(int row, int k) { return a + offset(row, k); }
  __device__ __forceinline__ unsigned char* at_b(int column, int k) { return b + offset(column, k); }
};

// A thread's share of the tile. A warp's accumulators leave the registers slice by slice: kSliceRows rows each, row r of slice
// s being row_of(s, r) of the tile.
template <class T, int kColumns>
struct Accumulator;

// Half on tensor cores: a warp has 32 rows, as two fragments of 16.
template <int kColumns>
struct Accumulator<__half, kColumns> {
  static constexpr int kSlices = 2, kSliceRows = 16;
  static_assert(kColumns % 16 == 0, "fragments of b are loaded two at a time");
  float c[kSlices][kColumns / 8][4];

  __device__ __forceinline__ void clear() {
    ZG_UNROLL
    for (int m = 0; m < kSlices; ++m)
      ZG_UNROLL
      for (int n = 0; n < kColumns / 8; ++n)
        ZG_UNROLL
        for (int e = 0; e < 4; ++e) c[m][n][e] = 0.0f;
  }

  __device__ __forceinline__ void multiply(Operands<__half, kColumns>& tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    ZG_UNROLL
    for (int k = 0; k < Operands<__half, kColumns>::kDepth; k += 16) {
      std::uint32_t a[kSlices][4];
      ZG_UNROLL
      for (int m = 0; m < kSlices; ++m)
        load_fragments(a[m], tile.at_a(warp * 32 + m * 16 + lane % 16, k + lane / 16 * 8));
      ZG_UNROLL
      for (int n = 0; n < kColumns / 16; ++n) {
        std::uint32_t b[4];  // of columns 16 n .. + 7 and + 8 .. + 15
        load_fragments_transposed(b, tile.at_b(k + lane % 16, n * 16 + lane / 16 * 8));
        ZG_UNROLL
        for (int m = 0; m < kSlices; ++m) {
          multiply_16x8x16(c[m][2 * n], a[m], b);
          multiply_16x8x16(c[m][2 * n + 1], a[m], b + 2);
        }
      }
    }
  }

  static __device__ __forceinline__ int row_of(int slice, int row) { return threadIdx.x / 32 * 32 + slice * 16 + row; }

  __device__ __forceinline__ void store(int slice, float* rows, int stride) const {
    const int lane = threadIdx.x % 32;
    ZG_UNROLL
    for (int n = 0; n < kColumns / 8; ++n)
      ZG_UNROLL
      for (int e = 0; e < 4; ++e)
        rows[(lane / 4 + e / 2 * 8) * stride + n * 8 + lane % 4 * 2 + e % 2] = c[slice][n][e];
  }
};

// Int8 on tensor cores: as half, with 32 inner elements a product.
template <int kColumns>
struct Accumulator<std::int8_t, kColumns> {
  static constexpr int kSlices = 2, kSliceRows = 16;
  static_assert(kColumns % 16 == 0, "fragments of b are loaded two at a time");
  std::int32_t c[kSlices][kColumns / 8][4];

  __device__ __forceinline__ void clear() {
    ZG_UNROLL
    for (int m = 0; m < kSlices; ++m)
      ZG_UNROLL
      for (int n = 0; n < kColumns / 8; ++n)
        ZG_UNROLL
        for (int e = 0; e < 4; ++e) c[m][n][e] = 0;
  }

  __device__ __forceinline__ void multiply(Operands<std::int8_t, kColumns>& tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    ZG_UNROLL
    for (int k = 0; k < Operands<std::int8_t, kColumns>::kDepth; k += 32) {
      std::uint32_t a[kSlices][4];
      ZG_UNROLL
      for (int m = 0; m < kSlices; ++m)
        load_fragments(a[m], tile.at_a(warp * 32 + m * 16 + lane % 16, k + lane / 16 * 16));
      ZG_UNROLL
      for (int n = 0; n < kColumns / 16; ++n) {
        std::uint32_t b[4];  // of columns 16 n .. + 7 and + 8 .. + 15
        load_fragments(b, tile.at_b(n * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 16));
        ZG_UNROLL
        for (int m = 0; m < kSlices; ++m) {
          multiply_16x8x32(c[m][2 * n], a[m], b);
          multiply_16x8x32(c[m][2 * n + 1], a[m], b + 2);
        }
      }
    }
  }

  static __device__ __forceinline__ int row_of(int slice, int row) { return threadIdx.x / 32 * 32 + slice * 16 + row; }

  // As float32: exact up to 2^24, beyond rounded half to even.
  __device__ __forceinline__ void store(int slice, float* rows, int stride) const {
    const int lane = threadIdx.x % 32;
    ZG_UNROLL
    for (int n = 0; n < kColumns / 8; ++n)
      ZG_UNROLL
      for (int e = 0; e < 4; ++e)
        rows[(lane / 4 + e / 2 * 8) * stride + n * 8 + lane % 4 * 2 + e % 2] = static_cast<float>(c[slice][n][e]);
  }
};

// Float32 without tensor cores (TF32 would round the inputs to 10 bits): a thread has rows 16 i + thread / 8 and columns
// 8 j + thread % 8.
template <int kColumns>
struct Accumulator<float, kColumns> {
  static constexpr int kSlices = kTileRows / 16, kSliceRows = 4;
  static_assert(kColumns % 8 == 0, "eight threads share a row");
  float c[kSlices][kColumns / 8];

  __device__ __forceinline__ void clear() {
    ZG_UNROLL
    for (int i = 0; i < kSlices; ++i)
      ZG_UNROLL
      for (int j = 0; j < kColumns / 8; ++j) c[i][j] = 0.0f;
  }

  __device__ __forceinline__ void multiply(Operands<float, kColumns>& tile) {
    const int row = threadIdx.x / 8, column = threadIdx.x % 8;
    ZG_UNROLL
    for (int k = 0; k < Operands<float, kColumns>::kDepth; ++k) {
      float b[kColumns / 8];
      ZG_UNROLL
      for (int j = 0; j < kColumns / 8; ++j) b[j] = *reinterpret_cast<const float*>(tile.at_b(k, 8 * j + column));
      ZG_UNROLL
      for (int i = 0; i < kSlices; ++i) {
        const float a = *reinterpret_cast<const float*>(tile.at_a(16 * i + row, k));
        ZG_UNROLL
        for (int j = 0; j < kColumns / 8; ++j) c[i][j] += a * b[j];
      }
    }
  }

  static __device__ __forceinline__ int row_of(int slice, int row) { return 16 * slice + threadIdx.x / 32 * 4 + row; }

  __device__ __forceinline__ void store(int slice, float* rows, int stride) const {
    const int lane = threadIdx.x % 32;
    ZG_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) rows[lane / 8 * stride + 8 * j + lane % 8] = c[slice][j];
  }
};

}  // namespace cuda
}  // namespace zerograsp
