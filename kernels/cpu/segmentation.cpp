#include "core/segmentation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace zerograsp {
namespace {

constexpr int kRowsPerBand = 16;
constexpr int kAllSums = 13;  // n, u, v, w, uu, uv, vv, uw, vw, ww, and the three colours
// Added to the spread of positions, pixels^2: a line of pixels has no slope across itself.
constexpr double kRidge = 0.1;
constexpr double kFewestOfCluster = 3;

template <class T>
void grow(std::vector<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

inline void add(double* s, int u, int v, float inverse_depth, const std::uint8_t* rgb) {
  const double x = u, y = v, w = inverse_depth;
  s[0] += 1, s[1] += x, s[2] += y, s[3] += w;
  s[4] += x * x, s[5] += x * y, s[6] += y * y;
  s[7] += x * w, s[8] += y * w, s[9] += w * w;
  s[10] += rgb[0], s[11] += rgb[1], s[12] += rgb[2];
}

// Statistics (kSuperpixelColumns) of the sums.
void finish(const double* s, double* out) {
  const double n = std::max(s[0], 1.0);
  const double u = s[1] / n, v = s[2] / n, w = s[3] / n;
  const double uu = s[4] / n - u * u + kRidge, uv = s[5] / n - u * v, vv = s[6] / n - v * v + kRidge;
  const double uw = s[7] / n - u * w, vw = s[8] / n - v * w, ww = s[9] / n - w * w;
  const double determinant = uu * vv - uv * uv;
  const double a = (uw * vv - vw * uv) / determinant, b = (vw * uu - uw * uv) / determinant;
  out[0] = s[0], out[1] = u, out[2] = v, out[3] = w, out[4] = a, out[5] = b;
  out[6] = std::sqrt(std::max(ww - a * uw - b * vw, 0.0));
  for (int i = 0; i < 3; ++i) out[7 + i] = s[10 + i] / n;
}

// A cluster as the distance function needs it.
struct Cluster {
  float u, v, w, a, b, red, green, blue;
};

struct Pixels {
  const float *inverse_depth, *red, *green, *blue;
};

// The cell of pixels that clusters compete for; `best` and `chosen` are (rows, width).
struct Cell {
  std::int64_t first, stride;  // index of its first pixel, pixels from row to row
  int u0, v0, width, rows;
  float* best;
  std::int32_t* chosen;
};

// Takes over the pixels that are nearer to the cluster than to those before it. With a width known at compile time the inner
// loop becomes a few vector instructions.
template <int Width>
void compete(const Pixels& image, const Cell& cell, const Cluster c, std::int32_t cluster, float steepness, float spatial,
             float colour_weight) {
  const int n = Width > 0 ? Width : cell.width;
  for (int y = 0; y < cell.rows; ++y) {
    const std::int64_t row = cell.first + y * cell.stride;
    const float *w = image.inverse_depth + row, *red = image.red + row, *green = image.green + row,
                *blue = image.blue + row;
    float* best = cell.best + y * n;
    std::int32_t* chosen = cell.chosen + y * n;
    const float dv = static_cast<float>(cell.v0 + y) - c.v, across = c.w + c.b * dv, dv2 = dv * dv;
    for (int i = 0; i < n; ++i) {
      const float du = static_cast<float>(cell.u0 + i) - c.u;
      const float miss = (w[i] - (across + c.a * du)) * steepness;
      const float dr = red[i] - c.red, dg = green[i] - c.green, db = blue[i] - c.blue;
      const float distance = miss * miss + spatial * (du * du + dv2) + colour_weight * (dr * dr + dg * dg + db * db);
      const bool nearer = distance < best[i];
      chosen[i] = nearer ? cluster : chosen[i];
      best[i] = nearer ? distance : best[i];
    }
  }
}

// Gives the pixels between two labelled ones of a row the label of the farther one.
inline void bridge(const float* depth, std::int32_t* labels, int left, int right, int longest) {
  const int gap = right - left - 1;
  if (gap > 0 && left >= 0 && gap <= longest)
    std::fill(labels + left + 1, labels + right, depth[right] > depth[left] ? labels[right] : labels[left]);
}

inline bool measured(float depth, float low, float high) { return depth > low && depth < high; }

}  // namespace

void reduce_depth(const Parallel& parallel, const float* depth, int height, int width, int stride, float min_depth,
                  float max_depth, float tolerance, float* out) {
  const int rows = height / stride, columns = width / stride, size = stride * stride;
  const int bands = (rows + kRowsPerBand - 1) / kRowsPerBand;
  parallel_for(parallel, static_cast<std::size_t>(bands), [&](std::size_t band) {
    float block[kMostStride * kMostStride], ordered[kMostStride * kMostStride];
    const int last = std::min((static_cast<int>(band) + 1) * kRowsPerBand, rows);
    for (int y = static_cast<int>(band) * kRowsPerBand; y < last; ++y)
      for (int x = 0; x < columns; ++x) {
        int count = 0;
        for (int dy = 0; dy < stride; ++dy) {
          const float* row = depth + static_cast<std::int64_t>(y * stride + dy) * width + x * stride;
          for (int dx = 0; dx < stride; ++dx)
            if (measured(row[dx], min_depth, max_depth)) block[count++] = 1000.0f / row[dx];
        }
        float& value = out[static_cast<std::int64_t>(y) * columns + x];
        value = 0;
        if (2 * count < size) continue;
        for (int i = 0; i < count; ++i) {  // insertion sort, nearest first: blocks are small
          int at = i;
          for (; at > 0 && ordered[at - 1] < block[i]; --at) ordered[at] = ordered[at - 1];
          ordered[at] = block[i];
        }
        const float middle = ordered[(count - 1) / 2], limit = tolerance * middle;
        float total = 0, kept = 0;
        for (int i = 0; i < count; ++i)
          if (std::fabs(block[i] - middle) <= limit) total += block[i], kept += 1;
        value = total / kept;  // the middle one is always kept
      }
  });
}

void PlanarSuperpixels::fit(const Parallel& parallel, const SuperpixelInput& in, const std::int32_t* labels,
                            double* statistics) {
  const int gx = (in.width + in.cell - 1) / in.cell, gy = (in.height + in.cell - 1) / in.cell;
  parallel_for(parallel, static_cast<std::size_t>(gy), [&](std::size_t task) {
    const int cy = static_cast<int>(task);
    const std::int32_t first = cy * gx;
    double* sums = sums_.data() + static_cast<std::int64_t>(first) * kAllSums;
    std::fill_n(sums, static_cast<std::int64_t>(gx) * kAllSums, 0.0);
    // A cluster's pixels lie in the nine cells around its own.
    const int v0 = std::max((cy - 1) * in.cell, 0), v1 = std::min((cy + 2) * in.cell, in.height);
    for (int v = v0; v < v1; ++v) {
      const std::int64_t row = static_cast<std::int64_t>(v) * in.width;
      for (int u = 0; u < in.width; ++u) {
        const std::uint32_t own = static_cast<std::uint32_t>(labels[row + u] - first);
        if (labels[row + u] >= first && own < static_cast<std::uint32_t>(gx))
          add(sums + own * kAllSums, u, v, in.inverse_depth[row + u], in.colour + 3 * (row + u));
      }
    }
    for (int cx = 0; cx < gx; ++cx)
      finish(sums + static_cast<std::int64_t>(cx) * kAllSums,
             statistics + static_cast<std::int64_t>(first + cx) * kSuperpixelColumns);
  });
}

void PlanarSuperpixels::run(const Parallel& parallel, const SuperpixelInput& in, std::int32_t* labels,
                            double* statistics) {
  const std::int64_t size = static_cast<std::int64_t>(in.height) * in.width;
  const int gx = (in.width + in.cell - 1) / in.cell, gy = (in.height + in.cell - 1) / in.cell;
  grow(colour_, static_cast<std::size_t>(3 * size));
  grow(sums_, static_cast<std::size_t>(gy) * gx * kAllSums);
  for (int v = 0; v < in.height; ++v)
    for (int u = 0; u < in.width; ++u) {
      const std::int64_t i = static_cast<std::int64_t>(v) * in.width + u;
      labels[i] = in.inverse_depth[i] > 0 ? v / in.cell * gx + u / in.cell : -1;
      for (int c = 0; c < 3; ++c) colour_[static_cast<std::size_t>(c * size + i)] = in.colour[3 * i + c];
    }
  const float steepness = 1.0f / in.noise;
  const float spatial = in.spatial_weight / static_cast<float>(in.cell * in.cell);
  const Pixels image = {in.inverse_depth, colour_.data(), colour_.data() + size, colour_.data() + 2 * size};
  grow(clusters_, static_cast<std::size_t>(gy) * gx * (sizeof(Cluster) / sizeof(float)));
  Cluster* clusters = reinterpret_cast<Cluster*>(clusters_.data());
  for (int iteration = 0; iteration < in.iterations; ++iteration) {
    fit(parallel, in, labels, statistics);
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(gy) * gx; ++k) {
      const double* s = statistics + k * kSuperpixelColumns;
      const auto f = [s](int i) { return static_cast<float>(s[i]); };
      clusters[k] = {f(1), f(2), f(3), f(4), f(5), f(7), f(8), f(9)};
    }
    parallel_for(parallel, static_cast<std::size_t>(gy), [&](std::size_t task) {
      const int cy = static_cast<int>(task), v1 = std::min((cy + 1) * in.cell, in.height);
      float best[kLargestCell * kLargestCell];
      std::int32_t chosen[kLargestCell * kLargestCell];
      for (int cx = 0; cx < gx; ++cx) {
        const int u0 = cx * in.cell, v0 = cy * in.cell, width = std::min(in.cell, in.width - u0);
        const Cell cell = {static_cast<std::int64_t>(v0) * in.width + u0, in.width, u0, v0, width, v1 - v0, best, chosen};
        std::fill_n(best, width * cell.rows, std::numeric_limits<float>::infinity());
        std::fill_n(chosen, width * cell.rows, -1);
        for (int ny = std::max(cy - 1, 0); ny <= std::min(cy + 1, gy - 1); ++ny)
          for (int nx = std::max(cx - 1, 0); nx <= std::min(cx + 1, gx - 1); ++nx) {
            const std::int32_t k = ny * gx + nx;
            if (statistics[static_cast<std::int64_t>(k) * kSuperpixelColumns] < kFewestOfCluster) continue;
            const auto take = width == 8 ? compete<8> : compete<0>;
            take(image, cell, clusters[k], k, steepness, spatial, in.colour_weight);
          }
        for (int y = 0; y < cell.rows; ++y)
          for (int x = 0; x < width; ++x) {
            std::int32_t& label = labels[cell.first + y * cell.stride + x];
            const std::int32_t winner = chosen[y * width + x];
            if (label >= 0 && winner >= 0) label = winner;
          }
      }
    });
  }
  fit(parallel, in, labels, statistics);
}

void SuperpixelGraph::link(const float* inverse_depth, int u, int v, int previous_u, int previous_v, int width) {
  const std::int64_t here = static_cast<std::int64_t>(v) * width + u;
  const std::int64_t there = static_cast<std::int64_t>(previous_v) * width + previous_u;
  const std::int32_t p = pieces[here], q = pieces[there];
  if (p == q) return;
  const std::int32_t a = std::min(p, q), b = std::max(p, q);
  std::int32_t edge = -1;
  for (const Link& l : links_[a])
    if (l.other == b) {
      edge = l.edge;
      break;
    }
  if (edge < 0) {
    edge = static_cast<std::int32_t>(found_.size());
    found_.push_back({a, b, {}});
    links_[a].push_back({b, edge});
  }
  const double x = 0.5 * (u + previous_u), y = 0.5 * (v + previous_v);
  const double* s = statistics.data() + static_cast<std::int64_t>(a) * kSuperpixelColumns;
  const double* t = statistics.data() + static_cast<std::int64_t>(b) * kSuperpixelColumns;
  const double step = (s[3] + s[4] * (x - s[1]) + s[5] * (y - s[2])) - (t[3] + t[4] * (x - t[1]) + t[5] * (y - t[2]));
  double* sums = found_[edge].sums;
  sums[0] += 1, sums[1] += step, sums[2] += std::fabs(step);
  sums[3] += std::fabs(static_cast<double>(inverse_depth[here]) - static_cast<double>(inverse_depth[there]));
  sums[4] += x, sums[5] += y, sums[6] += (u - previous_u) + (v - previous_v) - 1;
}

void SuperpixelGraph::run(const float* inverse_depth, const std::uint8_t* colour, const std::int32_t* labels,
                          const double* label_statistics, int height, int width, int fewest, int reach) {
  const std::int64_t size = static_cast<std::int64_t>(height) * width;
  // Union-find over pixels; the root of a piece is its first pixel in raster order.
  grow(parent_, static_cast<std::size_t>(size));
  const auto find = [&](std::int32_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  };
  for (int v = 0; v < height; ++v)
    for (int u = 0; u < width; ++u) {
      const std::int32_t i = static_cast<std::int32_t>(static_cast<std::int64_t>(v) * width + u), label = labels[i];
      parent_[i] = i;
      if (label < 0) continue;
      if (u > 0 && labels[i - 1] == label) parent_[i] = find(i - 1);
      if (v > 0 && labels[i - width] == label) {
        const std::int32_t p = find(i), q = find(i - width);
        parent_[std::max(p, q)] = std::min(p, q);
      }
    }
  pieces.resize(static_cast<std::size_t>(size));
  count = 0;
  for (std::int32_t i = 0; i < size; ++i)
    pieces[i] = labels[i] < 0 ? -1 : parent_[i] == i ? count++ : pieces[find(i)];

  std::vector<double>& sums = sums_;
  sums.assign(static_cast<std::size_t>(count) * kAllSums, 0.0);
  label_of_.resize(static_cast<std::size_t>(count));
  for (int v = 0; v < height; ++v)
    for (int u = 0; u < width; ++u) {
      const std::int64_t i = static_cast<std::int64_t>(v) * width + u;
      if (pieces[i] < 0) continue;
      add(sums.data() + static_cast<std::int64_t>(pieces[i]) * kAllSums, u, v, inverse_depth[i], colour + 3 * i);
      label_of_[pieces[i]] = labels[i];
    }
  statistics.resize(static_cast<std::size_t>(count) * kSuperpixelColumns);
  for (std::int32_t k = 0; k < count; ++k) {
    double* out = statistics.data() + static_cast<std::int64_t>(k) * kSuperpixelColumns;
    finish(sums.data() + static_cast<std::int64_t>(k) * kAllSums, out);
    if (out[0] >= fewest) continue;
    const double* whole = label_statistics + static_cast<std::int64_t>(label_of_[k]) * kSuperpixelColumns;
    out[4] = whole[4], out[5] = whole[5];
  }

  if (links_.size() < static_cast<std::size_t>(count)) links_.resize(static_cast<std::size_t>(count));
  for (std::int32_t k = 0; k < count; ++k) links_[k].clear();
  found_.clear();
  above_.assign(static_cast<std::size_t>(width), -1);  // last measured row of every column
  for (int v = 0; v < height; ++v) {
    int left = -1;
    for (int u = 0; u < width; ++u) {
      if (pieces[static_cast<std::int64_t>(v) * width + u] < 0) continue;
      if (left >= 0 && u - left <= reach) link(inverse_depth, u, v, left, v, width);
      if (above_[u] >= 0 && v - above_[u] <= reach) link(inverse_depth, u, v, u, above_[u], width);
      left = u, above_[u] = v;
    }
  }
  std::sort(found_.begin(), found_.end(), [](const Edge& x, const Edge& y) { return x.a != y.a ? x.a < y.a : x.b < y.b; });
  edges.resize(2 * found_.size());
  edge_statistics.resize(kEdgeColumns * found_.size());
  for (std::size_t e = 0; e < found_.size(); ++e) {
    edges[2 * e] = found_[e].a, edges[2 * e + 1] = found_[e].b;
    double* out = edge_statistics.data() + e * kEdgeColumns;
    const double n = found_[e].sums[0];
    out[0] = n;
    for (int i = 1; i < kEdgeColumns; ++i) out[i] = found_[e].sums[i] / n;
  }
}

std::int32_t GraphContraction::run(std::int32_t nodes, const std::int32_t* edges, const double* weights,
                                   std::int64_t count, std::int32_t* regions) {
  if (neighbours_.size() < static_cast<std::size_t>(nodes)) neighbours_.resize(static_cast<std::size_t>(nodes));
  root_.resize(static_cast<std::size_t>(nodes));
  for (std::int32_t i = 0; i < nodes; ++i) neighbours_[i].clear(), root_[i] = i;
  heap_.clear();
  // The heap's top is the heaviest edge, of equal ones that with the smallest ends.
  const auto later = [](const Candidate& x, const Candidate& y) {
    if (x.weight != y.weight) return x.weight < y.weight;
    return x.a != y.a ? x.a > y.a : x.b > y.b;
  };
  for (std::int64_t e = 0; e < count; ++e) {
    const std::int32_t a = edges[2 * e], b = edges[2 * e + 1];
    neighbours_[a].push_back({b, weights[e]});
    neighbours_[b].push_back({a, weights[e]});
    if (weights[e] > 0) heap_.push_back({weights[e], std::min(a, b), std::max(a, b)});
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  const auto entry = [&](std::int32_t of, std::int32_t other) -> Neighbour* {
    for (Neighbour& n : neighbours_[of])
      if (n.node == other) return &n;
    return nullptr;
  };
  const auto erase = [&](std::int32_t of, std::int32_t other) {
    Neighbour* n = entry(of, other);
    *n = neighbours_[of].back();
    neighbours_[of].pop_back();
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate top = heap_.back();
    heap_.pop_back();
    if (root_[top.a] != top.a || root_[top.b] != top.b) continue;
    const Neighbour* current = entry(top.a, top.b);
    if (current == nullptr || current->weight != top.weight) continue;  // an older weight of this edge
    root_[top.b] = top.a;
    erase(top.a, top.b);
    for (const Neighbour& n : neighbours_[top.b]) {
      if (n.node == top.a) continue;
      double weight = n.weight;
      if (Neighbour* own = entry(top.a, n.node)) {
        weight = own->weight += n.weight;
        erase(n.node, top.b);
        entry(n.node, top.a)->weight = weight;
      } else {
        neighbours_[top.a].push_back(n);
        *entry(n.node, top.b) = {top.a, weight};
      }
      if (weight > 0) {
        heap_.push_back({weight, std::min(top.a, n.node), std::max(top.a, n.node)});
        std::push_heap(heap_.begin(), heap_.end(), later);
      }
    }
    neighbours_[top.b].clear();
  }
  std::int32_t number = 0;
  for (std::int32_t i = 0; i < nodes; ++i) {
    std::int32_t root = i;
    while (root_[root] != root) root = root_[root];
    // The smaller end survives, so a root comes before all of its nodes.
    regions[i] = root == i ? number++ : regions[root];
  }
  return number;
}

void LabelExpansion::run(const Parallel& parallel, const ExpandInput& in, std::int32_t* out) {
  const int rows = in.height / in.stride, columns = in.width / in.stride;
  const int bands = (in.height + kRowsPerBand - 1) / kRowsPerBand;
  // Reduced pixels whose neighbours all have their label, or none: most of them.
  grow(uniform_, static_cast<std::size_t>(rows) * columns);
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x) {
      const std::int64_t own = static_cast<std::int64_t>(y) * columns + x;
      bool same = in.labels[own] >= 0;
      for (int ny = std::max(y - 1, 0); same && ny <= std::min(y + 1, rows - 1); ++ny)
        for (int nx = std::max(x - 1, 0); nx <= std::min(x + 1, columns - 1); ++nx) {
          const std::int32_t other = in.labels[static_cast<std::int64_t>(ny) * columns + nx];
          same = same && (other == in.labels[own] || other < 0);
        }
      uniform_[own] = same;
    }
  parallel_for(parallel, static_cast<std::size_t>(bands), [&](std::size_t band) {
    const int last = std::min((static_cast<int>(band) + 1) * kRowsPerBand, in.height);
    for (int v = static_cast<int>(band) * kRowsPerBand; v < last; ++v) {
      const float* depth = in.depth + static_cast<std::int64_t>(v) * in.width;
      std::int32_t* labels = out + static_cast<std::int64_t>(v) * in.width;
      const int y = std::min(v / in.stride, rows - 1);
      int left = -1;  // last measured column
      for (int u = 0; u < in.width; ++u) {
        labels[u] = -1;
        if (!measured(depth[u], in.min_depth, in.max_depth)) continue;
        const int x = std::min(u / in.stride, columns - 1);
        const std::int64_t own = static_cast<std::int64_t>(y) * columns + x;
        if (uniform_[own]) {
          labels[u] = in.labels[own];
          bridge(depth, labels, left, u, in.fill);
          left = u;
          continue;
        }
        const float inverse = 1000.0f / depth[u];
        float nearest = std::numeric_limits<float>::infinity();
        // The block that the pixel lies in first: of equal ones it is taken.
        if (in.labels[own] >= 0) nearest = std::fabs(in.inverse_depth[own] - inverse), labels[u] = in.labels[own];
        for (int ny = std::max(y - 1, 0); ny <= std::min(y + 1, rows - 1); ++ny)
          for (int nx = std::max(x - 1, 0); nx <= std::min(x + 1, columns - 1); ++nx) {
            const std::int64_t i = static_cast<std::int64_t>(ny) * columns + nx;
            const float off = std::fabs(in.inverse_depth[i] - inverse);
            if (in.labels[i] >= 0 && off < nearest) nearest = off, labels[u] = in.labels[i];
          }
        if (labels[u] < 0) continue;
        bridge(depth, labels, left, u, in.fill);
        left = u;
      }
    }
  });
}

}  // namespace zerograsp
