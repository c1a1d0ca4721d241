// Parts of the geometric segmentation of a depth image: a reduced image of inverse depth, superpixels that are planes, the
// graph of their connected pieces, its contraction into regions, and the regions' labels at full resolution. The meaning is
// in reference/segmentation.py, which these agree with bit by bit.
//
// Inverse depth (1/m) of a plane is an affine function of the pixel, w = a u + b v + c, and a stereo camera's error of it is
// the same everywhere in the picture: planes are fitted and compared there.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/parallel.h"

namespace zerograsp {

constexpr int kMostStride = 8;
constexpr int kLargestCell = 64;
// Columns of a superpixel's statistics: pixels, mean column, mean row, mean inverse depth, its slopes a and b, root mean
// square residual, mean colour (3).
constexpr int kSuperpixelColumns = 10;
// Columns of an edge's statistics: links, mean signed and absolute step between the two planes, mean absolute observed step,
// mean column and row, mean number of unmeasured pixels in between.
constexpr int kEdgeColumns = 7;

// out: (height / stride, width / stride); of every block the mean of the values near its median, 0 unless half of the block is
// measured.
void reduce_depth(const Parallel& parallel, const float* depth, int height, int width, int stride, float min_depth,
                  float max_depth, float tolerance, float* out);

struct SuperpixelInput {
  const float* inverse_depth;   // (height, width), 0 = not measured
  const std::uint8_t* colour;   // (height, width, 3)
  int height, width, cell;      // cell: pixels between seeds
  int iterations;
  float noise;                  // of the inverse depth
  float spatial_weight, colour_weight;
};

// k-means over position, colour and distance from each cluster's own plane; a pixel's clusters are those of the nine cells
// around it.
class PlanarSuperpixels {
 public:
  // labels: (height, width), -1 = not measured. statistics: (cells, kSuperpixelColumns).
  void run(const Parallel& parallel, const SuperpixelInput& input, std::int32_t* labels, double* statistics);

 private:
  void fit(const Parallel& parallel, const SuperpixelInput& input, const std::int32_t* labels, double* statistics);
  std::vector<float> colour_, clusters_;
  std::vector<double> sums_;
};

// Connected pieces (4-neighbourhood) of equal labels, numbered in raster order of their first pixel, and which of them touch.
class SuperpixelGraph {
 public:
  // statistics: of the labels, for pieces of fewer than `fewest` pixels, whose own plane would be arbitrary.
  void run(const float* inverse_depth, const std::uint8_t* colour, const std::int32_t* labels, const double* statistics,
           int height, int width, int fewest, int reach);

  std::vector<std::int32_t> pieces;    // (height, width), -1 where the label is -1
  std::vector<double> statistics;      // (pieces, kSuperpixelColumns)
  std::vector<std::int32_t> edges;     // (edges, 2), ascending
  std::vector<double> edge_statistics; // (edges, kEdgeColumns)
  std::int32_t count = 0;

 private:
  struct Link {
    std::int32_t other, edge;
  };
  struct Edge {
    std::int32_t a, b;
    double sums[kEdgeColumns];
  };
  void link(const float* inverse_depth, int u, int v, int previous_u, int previous_v, int width);
  std::vector<std::int32_t> parent_, above_, label_of_;
  std::vector<double> sums_;
  std::vector<std::vector<Link>> links_;
  std::vector<Edge> found_;
};

// Greedy additive edge contraction: as long as the heaviest edge is positive, its ends become one node and parallel edges are
// added up. (Keuper et al., Efficient decomposition of image and mesh graphs by lifted multicuts, ICCV 2015.)
class GraphContraction {
 public:
  // edges: (n, 2) node indices, weights: (n). regions: (nodes) region of each node, numbered by the first node. Returns their
  // number.
  std::int32_t run(std::int32_t nodes, const std::int32_t* edges, const double* weights, std::int64_t count,
                   std::int32_t* regions);

 private:
  struct Neighbour {
    std::int32_t node;
    double weight;
  };
  struct Candidate {
    double weight;
    std::int32_t a, b;
  };
  std::vector<std::vector<Neighbour>> neighbours_;
  std::vector<Candidate> heap_;
  std::vector<std::int32_t> root_;
};

struct ExpandInput {
  const float* depth;            // (height, width) mm
  int height, width, stride;
  const float* inverse_depth;    // (height / stride, width / stride)
  const std::int32_t* labels;    // the same size, -1 = not measured
  float min_depth, max_depth;
  int fill;                      // longest run of unmeasured pixels of a row that takes a label
};

// A measured pixel takes the label of that one of the nine reduced pixels around it whose inverse depth is nearest to its own;
// a run of unmeasured ones between two labels takes the farther one's.
class LabelExpansion {
 public:
  // out: (height, width), -1 = none.
  void run(const Parallel& parallel, const ExpandInput& input, std::int32_t* out);

 private:
  std::vector<std::uint8_t> uniform_;
};

}  // namespace zerograsp
