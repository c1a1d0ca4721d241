// Entry point of the custom-op library: SessionOptions.register_custom_ops_library(path).
#include "onnxruntime/convolution_nodes.h"
#include "onnxruntime/occlusion_node.h"
#include "onnxruntime/octree_nodes.h"

namespace zerograsp::ort {
namespace {

const std::vector<const CustomOp*>& nodes() {
  static const Registered<OctreeConv> conv;
  static const Registered<OctreeDownsample> downsample;
  static const Registered<OctreeUpsample> upsample;
  static const Registered<OctreeResidual> residual;
  static const Registered<OctreeMlp> mlp;
  static const Registered<GridConv> grid;
  static const Registered<OctreeNeighbor> neighbor;
  static const Registered<OctreeAlign> align;
  static const Registered<OcclusionField> occlusion;
  static const std::vector<const CustomOp*> all{&conv, &downsample, &upsample, &residual, &mlp, &grid, &neighbor, &align, &occlusion};
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
