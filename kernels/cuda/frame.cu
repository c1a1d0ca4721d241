// A frame's picture and masks on their way into the network: padding, labels, and the objects that go on.
#include "cuda/block_rank.h"
#include "cuda/error.h"

namespace zerograsp {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// One thread per pixel of the padded picture.
__global__ void __launch_bounds__(kThreads)
    pad_kernel(const std::uint8_t* rgb, int height, int width, int padded_height, int padded_width, std::uint8_t* padded) {
  const auto i = static_cast<std::uint32_t>(global_thread()), across = static_cast<std::uint32_t>(padded_width);
  if (i >= static_cast<std::uint32_t>(padded_height) * across) return;
  const int u = static_cast<int>(i % across), v = static_cast<int>(i / across);
  const std::uint8_t* from = rgb + 3 * (static_cast<std::int64_t>(v < height ? v : height - 1) * width + (u < width ? u : width - 1));
  for (int c = 0; c < 3; ++c) padded[3 * static_cast<std::int64_t>(i) + c] = from[c];
}

// The same by words of four bytes, of which rows are made: the picture, which may lie in host memory, is read once. One
// thread per word of the padded picture.
__global__ void __launch_bounds__(kThreads) pad_words_kernel(const std::uint32_t* rgb, int height, int width, int padded_height,
                                                             int padded_width, std::uint32_t* padded) {
  const int words = width * 3 / 4, padded_words = padded_width * 3 / 4;
  const auto i = static_cast<std::uint32_t>(global_thread()), across = static_cast<std::uint32_t>(padded_words);
  if (i >= static_cast<std::uint32_t>(padded_height) * across) return;
  const int word = static_cast<int>(i % across), v = static_cast<int>(i / across);
  const std::uint32_t* row = rgb + static_cast<std::int64_t>(v < height ? v : height - 1) * words;
  if (word < words) {
    padded[i] = row[word];
    return;
  }
  const std::uint32_t last = row[words - 1] >> 8;  // the last pixel, red in the lowest byte
  std::uint32_t out = 0;
  for (int k = 0; k < 4; ++k) out |= (last >> (8 * ((4 * word + k) % 3)) & 0xffu) << (8 * k);
  padded[i] = out;
}

template <class T>
__global__ void __launch_bounds__(kThreads) relabel_kernel(const T* values, Extent n, std::int32_t low, const std::int32_t* table,
                                                           std::int32_t table_size, std::int32_t* labels, std::int32_t* status) {
  const std::int64_t i = global_thread();
  if (i >= n.size()) return;
  const std::int64_t at = static_cast<std::int64_t>(values[i]) - low;
  const bool listed = at >= 0 && at < table_size;
  labels[i] = listed ? table[at] : -1;
  if (!listed && status != nullptr) atomicOr(status, static_cast<std::int32_t>(kZgLabelOutOfRange));
}

// One block.
__global__ void __launch_bounds__(kRankThreads)
    keep_kernel(const std::int32_t* counts, std::int32_t objects, std::int32_t minimum, std::int32_t* table, std::int32_t* kept,
                std::int32_t* kept_count) {
  ZG_SHARED(RankScratch, scratch);
  const int thread = static_cast<int>(threadIdx.x);
  std::int32_t ranked = 0;
  for (std::int32_t begin = 0; begin < objects; begin += kRankThreads) {
    const std::int32_t object = begin + thread;
    const bool enough = object < objects && counts[object] >= minimum;
    int total;
    const std::int32_t rank = ranked + block_rank(enough, scratch, &total);
    if (enough) kept[rank] = object;
    if (object < objects) table[1 + object] = enough ? rank : -1;
    ranked += total;
  }
  for (std::int32_t i = ranked + thread; i < objects; i += kRankThreads) kept[i] = -1;
  if (thread == 0) table[0] = -1, *kept_count = ranked;
}

}  // namespace
}  // namespace cuda
}  // namespace zerograsp

using namespace zerograsp::cuda;

int zg_cuda_pad_image(const uint8_t* rgb, int32_t height, int32_t width, int32_t padded_height, int32_t padded_width,
                      uint8_t* padded, CUstream_st* stream) {
  ZG_TRY(expect_size("height", height, 1, 1 << 14));
  ZG_TRY(expect_size("width", width, 1, 1 << 14));
  ZG_TRY(expect_size("padded_height", padded_height, height, 1 << 14));
  ZG_TRY(expect_size("padded_width", padded_width, width, 1 << 14));
  ZG_TRY(expect_pointer("rgb", rgb, true));
  ZG_TRY(expect_pointer("padded", padded, true));
  const std::uintptr_t all = reinterpret_cast<std::uintptr_t>(rgb) | reinterpret_cast<std::uintptr_t>(padded) |
                             static_cast<std::uintptr_t>(width) | static_cast<std::uintptr_t>(padded_width);
  if (all % 4 == 0)
    return launch(pad_words_kernel, blocks_for(static_cast<std::int64_t>(padded_height) * padded_width / 4 * 3, kThreads), kThreads,
                  stream, reinterpret_cast<const std::uint32_t*>(rgb), height, width, padded_height, padded_width,
                  reinterpret_cast<std::uint32_t*>(padded));
  return launch(pad_kernel, blocks_for(static_cast<std::int64_t>(padded_height) * padded_width, kThreads), kThreads, stream, rgb,
                height, width, padded_height, padded_width, padded);
}

int zg_cuda_relabel(const void* values, int32_t value_bytes, int64_t n, const int32_t* n_count, int32_t low, const int32_t* table,
                    int32_t table_size, int32_t* labels, int32_t* status, CUstream_st* stream) {
  ZG_TRY(expect_size("values", n, 0, kMaxRows));
  ZG_TRY(expect_size("table_size", table_size, 0, kMaxRows));
  ZG_TRY(expect_pointer("values", values, n > 0));
  ZG_TRY(expect_pointer("table", table, n > 0 && table_size > 0));
  ZG_TRY(expect_pointer("labels", labels, n > 0));
  const auto run = [&](auto element) {
    using T = decltype(element);
    return static_cast<int>(launch(relabel_kernel<T>, blocks_for(n, kThreads), kThreads, stream, static_cast<const T*>(values),
                                   Extent{n, n_count}, low, table, table_size, labels, status));
  };
  if (value_bytes == 1) return run(std::uint8_t{});
  if (value_bytes == 2) return run(std::uint16_t{});
  if (value_bytes == 4) return run(std::int32_t{});
  return invalid("value_bytes: expected 1, 2 or 4, got %d", value_bytes);
}

int zg_cuda_keep_objects(const int32_t* counts, int32_t objects, int32_t minimum, int32_t* table, int32_t* kept,
                         int32_t* kept_count, CUstream_st* stream) {
  ZG_TRY(expect_size("objects", objects, 1, 32767));
  ZG_TRY(expect_pointer("counts", counts, true));
  ZG_TRY(expect_pointer("table", table, true));
  ZG_TRY(expect_pointer("kept", kept, true));
  ZG_TRY(expect_pointer("kept_count", kept_count, true));
  return launch(keep_kernel, 1, kRankThreads, stream, counts, objects, minimum, table, kept, kept_count);
}
