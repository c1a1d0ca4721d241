// OctreeNeighbor and OctreeAlign.
#include "tensorrt/node.h"

namespace zerograsp {
namespace tensorrt {

std::vector<Node> octree_nodes() {
  Node neighbour;
  neighbour.name = "OctreeNeighbor";
  neighbour.inputs = {{"split_neighbours", Element::kInt32, "S 27"}, {"rank", Element::kInt32, "8S", true}};
  neighbour.output = {"neighbours", Element::kInt32, "27 8S"};
  neighbour.launch = [](const Call& c, const Attributes&) {
    return zg_cuda_expand_neighbours(c.input<std::int32_t>(0), c.dim(0, 0), nullptr, c.input<std::int32_t>(1),
                                     static_cast<std::int32_t*>(c.output), c.stream);
  };

  Node align;
  align.name = "OctreeAlign";
  align.inputs = {{"source_keys", Element::kInt64, "M"}, {"target_keys", Element::kInt64, "N"}};
  align.output = {"rows", Element::kInt32, "N"};
  align.launch = [](const Call& c, const Attributes&) {
    return zg_cuda_align(c.input<std::int64_t>(0), c.dim(0, 0), nullptr, c.input<std::int64_t>(1), c.dim(1, 0), nullptr,
                         static_cast<std::int32_t*>(c.output), c.stream);
  };
  return {neighbour, align};
}

}  // namespace tensorrt
}  // namespace zerograsp
