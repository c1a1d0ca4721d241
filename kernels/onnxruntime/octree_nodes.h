// OctreeNeighbor and OctreeAlign.
#pragma once
#include "core/octree.h"
#include "onnxruntime/node.h"

namespace zerograsp::ort {

class OctreeNeighbor {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeNeighbor", {kInt32, kInt32}, 1, {kInt32}};
    return s;
  }
  explicit OctreeNeighbor(const Info&) {}

  void compute(Context& c) {
    const auto split = c.input<std::int32_t>(0, "split_neighbours", 2);
    c.expect(split.dim(1) == 27, "input split_neighbours: expected 27 columns, got " + shape_text(split.shape));
    const auto rank = c.optional<std::int32_t>(1);
    const std::int64_t nodes = 8 * split.dim(0);
    c.expect(!rank || (rank.shape.size() == 1 && rank.dim(0) == nodes),
             "input rank: expected " + std::to_string(nodes) + " entries, got " + shape_text(rank.shape));
    std::int32_t* out = c.output<std::int32_t>(0, {27, nodes});
    expand_neighbours(c.parallel(), split.data, split.dim(0), rank.data, out);
  }
};

class OctreeAlign {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeAlign", {kInt64, kInt64}, 2, {kInt32}};
    return s;
  }
  explicit OctreeAlign(const Info&) {}

  void compute(Context& c) {
    const auto source = c.input<std::int64_t>(0, "source_keys", 1);
    const auto target = c.input<std::int64_t>(1, "target_keys", 1);
    std::int32_t* out = c.output<std::int32_t>(0, {target.dim(0)});
    align_keys(c.parallel(), source.data, source.dim(0), target.data, target.dim(0), out);
  }
};

}  // namespace zerograsp::ort
