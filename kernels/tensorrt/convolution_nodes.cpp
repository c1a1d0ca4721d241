// OctreeConv, OctreeDownsample, OctreeUpsample, OctreeResidual, OctreeMlp and GridConv.
#include "tensorrt/node.h"

namespace zerograsp {
namespace tensorrt {
namespace {

Node octree_conv() {
  enum { kX, kNeighbours, kWeight, kBias };
  Node node;
  node.name = "OctreeConv";
  node.inputs = {{"x", Element::kFeature, "M Cin"},
                 {"neighbours", Element::kInt32, "K N"},
                 {"weight", Element::kFeature, "K Cin Cout"},
                 {"bias", Element::kFloat, "Cout"}};
  node.output = {"y", Element::kFeature, "N Cout"};
  node.attributes = kActivation;
  node.launch = [](const Call& c, const Attributes& a) {
    return zg_cuda_octree_conv(c.type(), c.input<void>(kX), c.dim(kX, 0), c.input<std::int32_t>(kNeighbours),
                               c.size(kNeighbours, 0), c.dim(kNeighbours, 1), nullptr, c.input<void>(kWeight),
                               c.input<float>(kBias), c.size(kX, 1), c.size(kWeight, 2), a.activation, c.output, c.stream);
  };
  return node;
}

Node octree_downsample() {
  enum { kX, kChildren, kWeight, kBias };
  Node node;
  node.name = "OctreeDownsample";
  node.inputs = {{"x", Element::kFeature, "M Cin"},
                 {"children", Element::kInt32, "N"},
                 {"weight", Element::kFeature, "8 Cin Cout"},
                 {"bias", Element::kFloat, "Cout"}};
  node.output = {"y", Element::kFeature, "N Cout"};
  node.attributes = kActivation;
  node.launch = [](const Call& c, const Attributes& a) {
    return zg_cuda_octree_downsample(c.type(), c.input<void>(kX), c.dim(kX, 0), c.input<std::int32_t>(kChildren),
                                     c.dim(kChildren, 0), nullptr, c.input<void>(kWeight), c.input<float>(kBias),
                                     c.size(kX, 1), c.size(kWeight, 2), a.activation, c.output, c.stream);
  };
  return node;
}

Node octree_upsample() {
  enum { kX, kSplitRows, kWeight, kBias, kSkip, kSkipIndex };
  Node node;
  node.name = "OctreeUpsample";
  node.inputs = {{"x", Element::kFeature, "R Cin"},
                 {"split_rows", Element::kInt32, "S"},
                 {"weight", Element::kFeature, "8 Cin Cout"},
                 {"bias", Element::kFloat, "Cout"},
                 {"skip", Element::kFeature, "M Cout"},
                 {"skip_index", Element::kInt32, "8S"}};
  node.output = {"y", Element::kFeature, "8S Cout"};
  node.attributes = kActivation;
  node.launch = [](const Call& c, const Attributes& a) {
    return zg_cuda_octree_upsample(c.type(), c.input<void>(kX), c.dim(kX, 0), c.input<std::int32_t>(kSplitRows),
                                   c.dim(kSplitRows, 0), nullptr, c.input<void>(kWeight), c.input<float>(kBias),
                                   c.size(kX, 1), c.size(kWeight, 2), a.activation, c.input<void>(kSkip), c.dim(kSkip, 0),
                                   c.input<std::int32_t>(kSkipIndex), c.output, c.stream);
  };
  return node;
}

namespace residual {

enum { kX, kNeighbours, kWa, kBa, kW3, kB3, kWb, kBb, kWc };

std::size_t workspace(const Call& c, const Attributes&) {
  return zg_cuda_octree_residual_workspace(c.type(), c.dim(kX, 0), c.size(kWa, 2));
}

int launch(const Call& c, const Attributes& a) {
  return zg_cuda_octree_residual(c.type(), c.input<void>(kX), c.input<std::int32_t>(kNeighbours), c.size(kNeighbours, 0),
                                 c.dim(kX, 0), nullptr, c.input<void>(kWa), c.input<float>(kBa), c.input<void>(kW3),
                                 c.input<float>(kB3), c.input<void>(kWb), c.input<float>(kBb), c.input<void>(kWc),
                                 c.size(kX, 1), c.size(kWa, 2), c.size(kWb, 2), c.output, c.workspace, workspace(c, a),
                                 c.stream);
}

Node node() {
  Node node;
  node.name = "OctreeResidual";
  node.inputs = {{"x", Element::kFeature, "N C"},
                 {"neighbours", Element::kInt32, "27 N"},
                 {"wa", Element::kFeature, "1 C H"},
                 {"ba", Element::kFloat, "H"},
                 {"w3", Element::kFeature, "27 H H"},
                 {"b3", Element::kFloat, "H"},
                 {"wb", Element::kFeature, "1 H Co"},
                 {"bb", Element::kFloat, "Co"},
                 {"wc", Element::kFeature, "1 C Co", true}};
  node.output = {"y", Element::kFeature, "N Co"};
  node.same[0] = "C", node.same[1] = "Co";  // the shortcut is x itself
  node.workspace = workspace;
  node.launch = launch;
  return node;
}

}  // namespace residual

namespace mlp {

enum { kX, kW1, kB1, kW2, kB2 };

std::size_t workspace(const Call& c, const Attributes&) {
  return zg_cuda_octree_mlp_workspace(c.type(), c.dim(kX, 0), c.size(kW1, 2));
}

int launch(const Call& c, const Attributes& a) {
  return zg_cuda_octree_mlp(c.type(), c.input<void>(kX), c.dim(kX, 0), nullptr, c.input<void>(kW1), c.input<float>(kB1),
                            c.input<void>(kW2), c.input<float>(kB2), c.size(kX, 1), c.size(kW1, 2), c.size(kW2, 2),
                            c.output, c.workspace, workspace(c, a), c.stream);
}

Node node() {
  Node node;
  node.name = "OctreeMlp";
  node.inputs = {{"x", Element::kFeature, "N C"},
                 {"w1", Element::kFeature, "1 C H"},
                 {"b1", Element::kFloat, "H"},
                 {"w2", Element::kFeature, "1 H O"},
                 {"b2", Element::kFloat, "O"}};
  node.output = {"y", Element::kFeature, "N O"};
  node.workspace = workspace;
  node.launch = launch;
  return node;
}

}  // namespace mlp

Node grid_conv() {
  enum { kX, kWeight, kBias, kResidual };
  Node node;
  node.name = "GridConv";
  node.inputs = {{"x", Element::kFeature, "N r r r Cin"},
                 {"weight", Element::kFeature, "27 Cin Cout"},
                 {"bias", Element::kFloat, "Cout"},
                 {"residual", Element::kFeature, "N r r r Cout", true}};
  node.output = {"y", Element::kFeature, "N r r r Cout"};
  node.attributes = kActivation | kResolution;
  node.launch = [](const Call& c, const Attributes& a) {
    return zg_cuda_grid_conv(c.type(), c.input<void>(kX), c.dim(kX, 0), a.resolution, c.input<void>(kWeight),
                             c.input<float>(kBias), c.size(kX, 4), c.size(kWeight, 2), a.activation,
                             c.input<void>(kResidual), c.output, c.stream);
  };
  return node;
}

}  // namespace

std::vector<Node> convolution_nodes() {
  return {octree_conv(), octree_downsample(), octree_upsample(), residual::node(), mlp::node(), grid_conv()};
}

}  // namespace tensorrt
}  // namespace zerograsp
