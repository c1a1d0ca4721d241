// Entry point of the custom-op library: SessionOptions.register_custom_ops_library(path).
#include "onnxruntime/convolution_nodes.h"
#include "onnxruntime/int8_nodes.h"
#include "onnxruntime/occlusion_node.h"
#include "onnxruntime/octree_nodes.h"

namespace zerograsp::ort {
namespace {

// A node of several element types is registered once for each, under one name.
const std::vector<const CustomOp*>& nodes() {
  static const Registered<OctreeConv<float>> conv;
  static const Registered<OctreeConv<Half>> conv_half;
  static const Registered<OctreeDownsample<float>> downsample;
  static const Registered<OctreeDownsample<Half>> downsample_half;
  static const Registered<OctreeUpsample<float>> upsample;
  static const Registered<OctreeUpsample<Half>> upsample_half;
  static const Registered<OctreeResidual<float>> residual;
  static const Registered<OctreeResidual<Half>> residual_half;
  static const Registered<OctreeMlp<float>> mlp;
  static const Registered<OctreeMlp<Half>> mlp_half;
  static const Registered<GridConv<float>> grid;
  static const Registered<GridConv<Half>> grid_half;
  static const Registered<OctreeConvInt8<float>> conv_int8;
  static const Registered<OctreeConvInt8<Half>> conv_int8_half;
  static const Registered<OctreeDownsampleInt8<float>> downsample_int8;
  static const Registered<OctreeDownsampleInt8<Half>> downsample_int8_half;
  static const Registered<OctreeUpsampleInt8<float>> upsample_int8;
  static const Registered<OctreeUpsampleInt8<Half>> upsample_int8_half;
  static const Registered<OctreeResidualInt8<float>> residual_int8;
  static const Registered<OctreeResidualInt8<Half>> residual_int8_half;
  static const Registered<OctreeNeighbor> neighbor;
  static const Registered<OctreeAlign> align;
  static const Registered<OcclusionField> occlusion;
  static const std::vector<const CustomOp*> all{
      &conv, &conv_half, &downsample, &downsample_half, &upsample, &upsample_half, &residual, &residual_half, &mlp,
      &mlp_half, &grid, &grid_half,
      &conv_int8, &conv_int8_half, &downsample_int8, &downsample_int8_half,
      &upsample_int8, &upsample_int8_half, &residual_int8, &residual_int8_half,
      &neighbor, &align, &occlusion};
  return all;
}

}  // namespace
}  // namespace zerograsp::ort

extern "C" __attribute__((visibility("default"))) zerograsp::ort::Status* RegisterCustomOps(
    zerograsp::ort::SessionOptions* options, const zerograsp::ort::ApiBase* base) {
  using namespace zerograsp::ort;
  const Api* api = base->get_api(kApiVersion);
  if (api == nullptr) {
    const Api* oldest = base->get_api(1);
    return oldest == nullptr ? nullptr
                             : oldest->create_status(kFail, "zerograsp custom ops need ONNX Runtime 1.17 or newer");
  }
  // One domain for the life of the process: ONNX Runtime keeps pointers to it in every session.
  static CustomOpDomain* domain = nullptr;
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    CustomOpDomain* made = nullptr;
    if (Status* status = api->create_domain("zerograsp", &made)) return status;
    for (const CustomOp* op : nodes())
      if (Status* status = api->domain_add(made, op)) return status;
    domain = made;
  }
  return api->add_domain(options, domain);
}
