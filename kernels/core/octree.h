// The octree operations on the CPU. Each class owns the scratch memory of one operation and keeps it between frames; an
// operation whose output size depends on the data runs in two steps, so that the caller can provide the output:
// the first says how much there will be, the second writes it. An object serves one frame at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/half.h"
#include "core/morton.h"
#include "core/parallel.h"

namespace zerograsp {

// Scratch memory grows to the largest frame and never shrinks.
template <class T>
void reserve(std::vector<T>& buffer, std::size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

// ---- free functions: nothing to remember between frames ----

// (27, 8 S) neighbours of the children of S split nodes from their (S, 27) split_neighbours. With `rank` (8 S), node i
// is replaced by rank[i].
void expand_neighbours(const Parallel& parallel, const std::int32_t* split_neighbours, std::int64_t split_count,
                       const std::int32_t* rank, std::int32_t* neighbours);

// Row of every target key in the source, -1 if it is not there; both strictly ascending. Runs of complete sibling groups
// are matched eight at a time.
void align_keys(const Parallel& parallel, const std::int64_t* source, std::int64_t source_count,
                const std::int64_t* target, std::int64_t target_count, std::int32_t* rows);

// Split nodes' (S, 27) table from that of their parents; `children` are the 8 * parent_count nodes of this depth.
void split_neighbours_from_parents(const Parallel& parallel, const std::int32_t* parents, std::int64_t parent_count,
                                   const std::int32_t* children, std::int32_t* split_neighbours);

// The same at a depth where every object's grid is full.
void split_neighbours_of_grid(const Parallel& parallel, int depth, std::int64_t objects, const std::int32_t* children,
                              std::int32_t* split_neighbours);

// ---- visible points of a frame ----

struct Camera {
  float inverse[9];  // K^-1, row-major
};

struct Cube {
  float grid_size;    // mm, edge of a node at depth min_lod
  float z_margin;     // nodes of that edge between the cube's near side and the nearest point
  float half_extent;  // mm from the optical axis to the cube's side
  float margin;       // points keep this far from the cube's sides, in normalised units
  float min_depth;    // mm; a pixel is valid beyond it
};

class PointScan {
 public:
  // Counts the valid pixels of every object and finds z_min. False if a label is outside [-1, objects).
  // With `valid_labels`, also writes the labels with -1 where the depth is invalid.
  bool scan(const Parallel& parallel, const float* depth, const std::int32_t* labels, std::int64_t height,
            std::int64_t width, std::int64_t objects, const Camera& camera, const Cube& cube,
            std::int32_t* valid_labels);
  std::int64_t points() const { return points_; }  // inside the cube
  float z_min() const { return z_min_; }
  std::int32_t wrong_label() const { return wrong_label_; }
  std::int64_t objects() const { return objects_; }
  // points (P, 3); counts, valid_counts (B)
  void write(const Parallel& parallel, float* points, std::int32_t* counts, std::int32_t* valid_counts);

 private:
  struct Span {  // consecutive points of one object
    std::int32_t label, count;
  };
  struct Block {  // the points of some rows of the image, in raster order
    std::vector<float> x, y, z;
    std::vector<Span> spans;
    std::vector<std::int32_t> column;              // of the valid pixels of one row
    std::vector<std::int32_t> valid, kept, place;  // per object
    std::int64_t count = 0, span_count = 0;
    float nearest = 0;
    std::int32_t wrong_label = -1;
  };
  void scan_rows(Block& block, const float* depth, const std::int32_t* labels, std::int64_t first, std::int64_t last,
                 const Camera& camera, const Cube& cube, std::int32_t* valid_labels) const;
  void normalise(Block& block, const Cube& cube) const;

  std::int64_t objects_ = 0, width_ = 0, points_ = 0;
  std::size_t blocks_ = 0;
  float z_min_ = 0;
  std::int32_t wrong_label_ = -1;
  std::vector<Block> block_;
};

// ---- octree of points ----

class OctreeBuild {
 public:
  // Sorts each object's points by voxel and finds the non-empty nodes of every depth. Returns the first point that lies
  // outside [-1, 1)^3 (or is NaN), -1 if there is none.
  std::int64_t sort(const Parallel& parallel, const float* points, const std::int32_t* counts, std::int64_t objects,
                    int depth, int full_depth);
  int depth() const { return depth_; }
  int full_depth() const { return full_depth_; }
  std::int64_t objects() const { return objects_; }
  std::int64_t points() const { return points_; }
  std::int64_t split_count(int depth, std::int64_t object) const { return split_[depth * objects_ + object]; }
  std::int64_t split_total(int depth) const { return offset_[depth * (objects_ + 1) + objects_]; }
  std::int64_t node_total(int depth) const;
  // keys, children: one pointer per depth full_depth .. depth; split_neighbours: full_depth .. depth - 1; voxel (P).
  void write(const Parallel& parallel, std::int64_t* const* keys, std::int32_t* const* children,
             std::int32_t* const* split_neighbours, std::int32_t* voxel);

 private:
  void sort_object(std::int64_t object, const float* points);
  void write_object(std::int64_t object, std::int64_t* const* keys, std::int32_t* const* children, std::int32_t* voxel);
  std::uint32_t* level(std::int64_t object, int depth);

  int depth_ = 0, full_depth_ = 0;
  std::int64_t objects_ = 0, points_ = 0;
  std::vector<std::int64_t> first_point_, split_, offset_, bad_point_;
  std::vector<std::int64_t> schedule_;  // objects, the largest first
  std::vector<std::uint64_t> runs_, sorted_;
  std::vector<std::uint32_t> levels_, run_voxel_;
  std::vector<std::int32_t> run_of_point_;
};

// ---- the output octree ----

class OctreeGrowth {
 public:
  // Decides which of n nodes split: by logits (stride floats a row; node i reads row rows[i], or i), or by `forced`.
  // With `keep_one`, node 0 splits if no other does. False if an entry of `rows` is outside [0, row_count).
  bool decide(const Parallel& parallel, const float* logits, std::int64_t row_count, std::int64_t stride,
              const std::int32_t* rows, const std::uint8_t* forced, std::int64_t n, bool keep_one);
  std::int64_t split_count() const { return split_count_; }
  std::int64_t nan_count() const { return nan_count_; }
  std::int64_t nodes() const { return nodes_; }
  // children (N), split_rows (S): rows[node], or the node itself without rows; next_keys (8 S) may be null.
  void write(const Parallel& parallel, const std::int32_t* rows, const std::int64_t* keys, std::int32_t* children,
             std::int32_t* split_rows, std::int64_t* next_keys);

 private:
  std::int64_t nodes_ = 0, split_count_ = 0, nan_count_ = 0;
  std::vector<std::uint8_t> split_;
  std::vector<std::int64_t> block_split_, block_nan_, block_bad_;
};

class ActiveGrid {
 public:
  // Marks the nodes of the full grids within `radius` of a key. Returns the first key outside the grids, -1 if none.
  std::int64_t mark(const std::int64_t* keys, std::int64_t count, std::int64_t objects, int depth, int radius);
  std::int64_t rows() const { return active_ + virtual_; }
  std::int64_t active() const { return active_; }
  std::int64_t nodes() const { return objects_ * cells_; }
  // node_rows (objects 8^depth), neighbours (27, R), source (R): index of the node's key, `count` if it has none.
  void write(const Parallel& parallel, const std::int64_t* keys, std::int32_t* node_rows, std::int32_t* neighbours,
             std::int32_t* source);

 private:
  void tables(int depth, int radius);
  int depth_ = -1, radius_ = -1;
  std::int64_t objects_ = 0, cells_ = 0, active_ = 0, virtual_ = 0, count_ = 0;
  std::vector<std::uint8_t> near_;           // (objects, n, n, n), x slowest
  std::vector<std::int32_t> linear_;         // Morton key -> cell of near_
  std::vector<std::int32_t> virtual_of_;     // Morton key -> virtual row, counted from the first one
  std::vector<std::int64_t> first_row_;      // per object
  std::vector<std::uint32_t> morton_of_row_;  // per active row
};

// ---- features of the finest voxels ----

struct Projection {
  float intrinsics[9];  // K, row-major
  float half_extent, z_min;
  std::int64_t height, width;  // of the image; the feature map may be padded beyond
};

class VoxelFeatures {
 public:
  // points (P, 3), voxel (P) -> out (V, 3 + C). features (C, padded_height, padded_width), C may be 0. Feature and Out are
  // float or Half; sums are float32 and rounded once.
  // False if an entry of `voxel` is outside [0, voxels) or a voxel has no point.
  template <class Feature, class Out>
  bool run(const Parallel& parallel, const float* points, const std::int32_t* voxel, std::int64_t count,
           std::int64_t voxels, int depth, const Feature* features, std::int64_t channels, std::int64_t padded_height,
           std::int64_t padded_width, const Projection& projection, Out* out);

 private:
  struct Segment {  // four neighbouring pixels of a row and their weights
    float weight[4];
    std::int32_t offset;
  };
  struct Sample {  // the upper left of the four pixels around a point's position, and the position from there
    std::int32_t x, y;
    float right, below;
  };
  void project(std::int64_t first, std::int64_t last, const float* points, const Projection& projection);
  std::int64_t plan_voxel(std::int64_t voxel, const Projection& projection, std::int64_t padded_width,
                          Segment* segments);

  std::vector<std::int32_t> start_, order_, segment_count_;
  std::vector<float> column_, row_;  // where each point samples the feature map, pixels
  std::vector<Sample> samples_;      // of the points in `order_`
  std::vector<Segment> segments_;
};

// ---- neighbouring masks ----

class MaskAdjacency {
 public:
  // adjacent (B, B): 1 where the 5x5-dilated masks of two different objects overlap. False if a label is outside [-1, B).
  bool run(const Parallel& parallel, const std::int32_t* labels, std::int64_t height, std::int64_t width,
           std::int64_t objects, std::uint8_t* adjacent);
  std::int32_t wrong_label() const { return wrong_label_; }

 private:
  struct Run {
    std::int32_t begin, end, label;
  };
  std::int32_t wrong_label_ = -1;
  std::vector<Run> runs_;
  std::vector<std::int32_t> run_count_, wrong_;  // per row
  std::vector<std::uint8_t> partial_;            // per block (B, B)
};

}  // namespace zerograsp
