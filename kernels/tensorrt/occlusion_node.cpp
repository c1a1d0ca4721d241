// OcclusionField.
#include "tensorrt/node.h"

namespace zerograsp {
namespace tensorrt {
namespace {

enum { kCentres, kObject, kDepth, kLabels, kAdjacency, kIntrinsics };

std::size_t workspace(const Call& c, const Attributes&) {
  return zg_cuda_occlusion_field_workspace(c.size(kDepth, 0), c.size(kDepth, 1), c.size(kAdjacency, 0));
}

int launch(const Call& c, const Attributes& a) {
  // Without a status word: a plugin has no place to report one. A label or an object out of range counts as background or
  // gives zeros, and the runtime, which makes both, checks them before the stage.
  return zg_cuda_occlusion_field(kZgFloat32, c.input<float>(kCentres), c.input<std::int32_t>(kObject), c.dim(kCentres, 0),
                                 nullptr, c.input<float>(kDepth), c.input<std::int32_t>(kLabels), c.size(kDepth, 0),
                                 c.size(kDepth, 1), c.input<std::uint8_t>(kAdjacency), c.size(kAdjacency, 0),
                                 c.input<float>(kIntrinsics), a.edge, a.resolution, c.output, nullptr, c.workspace,
                                 workspace(c, a), c.stream);
}

}  // namespace

std::vector<Node> occlusion_nodes() {
  Node field;
  field.name = "OcclusionField";
  field.inputs = {{"centres", Element::kFloat, "N 3"},     {"object", Element::kInt32, "N"},
                  {"depth", Element::kFloat, "H W"},       {"labels", Element::kInt32, "H W"},
                  {"adjacency", Element::kBool, "B B"},   {"intrinsics", Element::kFloat, "3 3"}};
  field.output = {"flags", Element::kFloat, "N 2 r r r"};
  field.attributes = kEdge | kResolution;
  field.workspace = workspace;
  field.launch = launch;
  return {field};
}

}  // namespace tensorrt
}  // namespace zerograsp
