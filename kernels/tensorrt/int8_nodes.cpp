// OctreeConvInt8, OctreeDownsampleInt8, OctreeUpsampleInt8 and OctreeResidualInt8. Features come and go as float32 or float16;
// a launch first quantises x into the workspace.
#include "tensorrt/node.h"

namespace zerograsp {
namespace tensorrt {
namespace {

enum { kX, kTable, kWeight, kWeightScale, kBias, kSkip, kSkipIndex };

constexpr std::size_t kAlignment = 256;

std::size_t quantized_bytes(const Call& c) {
  const std::size_t bytes = static_cast<std::size_t>(c.dim(kX, 0)) * static_cast<std::size_t>(c.dim(kX, 1));
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Enqueues the quantisation of x, whose int8 lie at the start of the workspace.
int quantize(const Call& c, const Attributes& a) {
  return zg_cuda_quantize(c.type(), c.input<void>(kX), c.dim(kX, 0), nullptr, c.size(kX, 1), a.x_scale,
                          static_cast<std::int8_t*>(c.workspace), c.stream);
}

std::size_t workspace(const Call& c, const Attributes&) { return quantized_bytes(c); }

Node octree_conv() {
  Node node;
  node.name = "OctreeConvInt8";
  node.inputs = {{"x", Element::kFeature, "M Cin"},
                 {"neighbours", Element::kInt32, "K N"},
                 {"weight", Element::kInt8, "Cout K Cin"},
                 {"weight_scale", Element::kFloat, "Cout"},
                 {"bias", Element::kFloat, "Cout"}};
  node.output = {"y", Element::kFeature, "N Cout"};
  node.attributes = kActivation | kScale;
  node.workspace = workspace;
  node.launch = [](const Call& c, const Attributes& a) {
    if (const int error = quantize(c, a)) return error;
    return zg_cuda_octree_conv_int8(static_cast<const std::int8_t*>(c.workspace), a.x_scale, c.dim(kX, 0),
                                    c.input<std::int32_t>(kTable), c.size(kTable, 0), c.dim(kTable, 1), nullptr,
                                    c.input<std::int8_t>(kWeight), c.input<float>(kWeightScale), c.input<float>(kBias),
                                    c.size(kX, 1), c.size(kWeight, 0), a.activation, c.type(), 0.0f, c.output, c.stream);
  };
  return node;
}

Node octree_downsample() {
  Node node;
  node.name = "OctreeDownsampleInt8";
  node.inputs = {{"x", Element::kFeature, "M Cin"},
                 {"children", Element::kInt32, "N"},
                 {"weight", Element::kInt8, "Cout 8 Cin"},
                 {"weight_scale", Element::kFloat, "Cout"},
                 {"bias", Element::kFloat, "Cout"}};
  node.output = {"y", Element::kFeature, "N Cout"};
  node.attributes = kActivation | kScale;
  node.workspace = workspace;
  node.launch = [](const Call& c, const Attributes& a) {
    if (const int error = quantize(c, a)) return error;
    return zg_cuda_octree_downsample_int8(static_cast<const std::int8_t*>(c.workspace), a.x_scale, c.dim(kX, 0),
                                          c.input<std::int32_t>(kTable), c.dim(kTable, 0), nullptr,
                                          c.input<std::int8_t>(kWeight), c.input<float>(kWeightScale), c.input<float>(kBias),
                                          c.size(kX, 1), c.size(kWeight, 0), a.activation, c.type(), 0.0f, c.output, c.stream);
  };
  return node;
}

Node octree_upsample() {
  Node node;
  node.name = "OctreeUpsampleInt8";
  node.inputs = {{"x", Element::kFeature, "R Cin"},
                 {"split_rows", Element::kInt32, "S"},
                 {"weight", Element::kInt8, "8 Cout Cin"},
                 {"weight_scale", Element::kFloat, "Cout"},
                 {"bias", Element::kFloat, "Cout"},
                 {"skip", Element::kFeature, "M Cout"},
                 {"skip_index", Element::kInt32, "8S"}};
  node.output = {"y", Element::kFeature, "8S Cout"};
  node.attributes = kActivation | kScale;
  node.workspace = workspace;
  node.launch = [](const Call& c, const Attributes& a) {
    if (const int error = quantize(c, a)) return error;
    return zg_cuda_octree_upsample_int8(static_cast<const std::int8_t*>(c.workspace), a.x_scale, c.dim(kX, 0),
                                        c.input<std::int32_t>(kTable), c.dim(kTable, 0), nullptr,
                                        c.input<std::int8_t>(kWeight), c.input<float>(kWeightScale), c.input<float>(kBias),
                                        c.size(kX, 1), c.size(kWeight, 1), a.activation, c.type(), 0.0f,
                                        c.input<void>(kSkip), c.dim(kSkip, 0), c.input<std::int32_t>(kSkipIndex), c.type(),
                                        0.0f, c.output, c.stream);
  };
  return node;
}

namespace residual {

enum { kX, kNeighbours, kWa, kWaScale, kBa, kW3, kW3Scale, kB3, kWb, kWbScale, kBb, kWc, kWcScale };

std::size_t block_bytes(const Call& c) {
  return zg_cuda_octree_residual_int8_workspace(c.dim(kX, 0), c.size(kWa, 0), c.size(kWb, 0));
}

std::size_t workspace(const Call& c, const Attributes&) { return quantized_bytes(c) + block_bytes(c); }

int launch(const Call& c, const Attributes& a) {
  if (const int error = quantize(c, a)) return error;
  auto* x = static_cast<std::int8_t*>(c.workspace);
  return zg_cuda_octree_residual_int8(x, a.x_scale, c.input<std::int32_t>(kNeighbours), c.size(kNeighbours, 0), c.dim(kX, 0),
                                      nullptr, c.input<std::int8_t>(kWa), c.input<float>(kWaScale), c.input<float>(kBa),
                                      a.first_scale, c.input<std::int8_t>(kW3), c.input<float>(kW3Scale),
                                      c.input<float>(kB3), a.second_scale, c.input<std::int8_t>(kWb),
                                      c.input<float>(kWbScale), c.input<float>(kBb), c.input<std::int8_t>(kWc),
                                      c.input<float>(kWcScale), c.size(kX, 1), c.size(kWa, 0), c.size(kWb, 0), c.type(), 0.0f,
                                      c.output, x + quantized_bytes(c), block_bytes(c), c.stream);
}

Node node() {
  Node node;
  node.name = "OctreeResidualInt8";
  node.inputs = {{"x", Element::kFeature, "N C"},
                 {"neighbours", Element::kInt32, "27 N"},
                 {"wa", Element::kInt8, "H 1 C"},
                 {"wa_scale", Element::kFloat, "H"},
                 {"ba", Element::kFloat, "H"},
                 {"w3", Element::kInt8, "H 27 H"},
                 {"w3_scale", Element::kFloat, "H"},
                 {"b3", Element::kFloat, "H"},
                 {"wb", Element::kInt8, "Co 1 H"},
                 {"wb_scale", Element::kFloat, "Co"},
                 {"bb", Element::kFloat, "Co"},
                 {"wc", Element::kInt8, "Co 1 C", true},
                 {"wc_scale", Element::kFloat, "Co", true}};
  node.output = {"y", Element::kFeature, "N Co"};
  node.attributes = kScale | kHiddenScales;
  node.same[0] = "C", node.same[1] = "Co";  // the shortcut is x itself
  node.workspace = workspace;
  node.launch = launch;
  return node;
}

}  // namespace residual
}  // namespace

std::vector<Node> int8_nodes() { return {octree_conv(), octree_downsample(), octree_upsample(), residual::node()}; }

}  // namespace tensorrt
}  // namespace zerograsp
