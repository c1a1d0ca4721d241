// Which objects touch: the 5x5-dilated masks of two objects overlap exactly when a pixel of one lies within 4 columns and
// 4 rows of a pixel of the other, so runs of equal labels are compared instead of dilating images.
#include <algorithm>

#include "core/label_scan.h"
#include "core/octree.h"

namespace zerograsp {

namespace {
constexpr std::int64_t kReach = 4;  // two dilations of 2 pixels
constexpr std::int64_t kRowsPerBlock = 32;
}  // namespace

bool MaskAdjacency::run(const Parallel& parallel, const std::int32_t* labels, std::int64_t height, std::int64_t width,
                        std::int64_t objects, std::uint8_t* adjacent) {
  const std::size_t blocks = static_cast<std::size_t>((height + kRowsPerBlock - 1) / kRowsPerBlock);
  const std::size_t table = static_cast<std::size_t>(objects * objects);
  reserve(runs_, static_cast<std::size_t>(height * width));
  reserve(run_count_, static_cast<std::size_t>(height));
  reserve(wrong_, static_cast<std::size_t>(height));
  reserve(partial_, blocks * table);
  std::fill_n(partial_.begin(), blocks * table, std::uint8_t{0});

  parallel_for(parallel, blocks, [&](std::size_t b) {
    const std::int64_t first = static_cast<std::int64_t>(b) * kRowsPerBlock;
    const std::int64_t last = std::min(first + kRowsPerBlock, height);
    for (std::int64_t v = first; v < last; ++v) {
      const std::int32_t* row = labels + v * width;
      Run* runs = runs_.data() + v * width;
      std::int32_t count = 0;
      wrong_[v] = -1;
      for (std::int64_t u = skip_background(row, 0, width); u < width;) {
        const std::int64_t end = skip_equal(row, u, width);
        if (static_cast<std::uint32_t>(row[u]) >= static_cast<std::uint32_t>(objects)) wrong_[v] = row[u];
        runs[count++] = {static_cast<std::int32_t>(u), static_cast<std::int32_t>(end), row[u]};
        u = skip_background(row, end, width);
      }
      run_count_[v] = count;
    }
  });
  for (std::int64_t v = 0; v < height; ++v)
    if (wrong_[v] != -1) {
      wrong_label_ = wrong_[v];
      return false;
    }

  parallel_for(parallel, blocks, [&](std::size_t b) {
    std::uint8_t* found = partial_.data() + b * table;
    const std::int64_t first = static_cast<std::int64_t>(b) * kRowsPerBlock;
    const std::int64_t last = std::min(first + kRowsPerBlock, height);
    for (std::int64_t v = first; v < last; ++v)
      for (std::int64_t w = v; w < std::min(v + kReach + 1, height); ++w) {
        const Run *upper = runs_.data() + v * width, *lower = runs_.data() + w * width;
        std::int32_t near = 0;  // first run of the lower row that the upper row's runs can still reach
        for (std::int32_t i = 0; i < run_count_[v]; ++i) {
          while (near < run_count_[w] && lower[near].end - 1 + kReach < upper[i].begin) ++near;
          for (std::int32_t j = near; j < run_count_[w] && lower[j].begin <= upper[i].end - 1 + kReach; ++j)
            found[upper[i].label * objects + lower[j].label] = 1;
        }
      }
  });
  for (std::int64_t i = 0; i < objects; ++i)
    for (std::int64_t j = 0; j < objects; ++j) {
      std::uint8_t any = 0;
      if (i != j)
        for (std::size_t b = 0; b < blocks; ++b)
          any |= partial_[b * table + i * objects + j] | partial_[b * table + j * objects + i];
      adjacent[i * objects + j] = any;
    }
  return true;
}

}  // namespace zerograsp
