// What TensorRT looks up in a plugin library: IPluginRegistry::loadLibrary(), trtexec --dynamicPlugins.
#include "tensorrt/log.h"
#include "tensorrt/plugin.h"

#include <memory>

namespace {

using zerograsp::tensorrt::Creator;
using zerograsp::tensorrt::Node;

struct Creators {
  std::vector<std::unique_ptr<Creator>> owned;
  std::vector<nvinfer1::IPluginCreatorInterface*> all;

  Creators() {
    using namespace zerograsp::tensorrt;
    for (const auto nodes : {convolution_nodes, int8_nodes, octree_nodes, occlusion_nodes})
      for (Node& node : nodes()) {
        owned.push_back(std::make_unique<Creator>(std::move(node)));
        all.push_back(owned.back().get());
      }
  }
};

}  // namespace

extern "C" ZG_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static Creators creators;  // for the life of the process: plugins keep references to their nodes
  count = static_cast<int32_t>(creators.all.size());
  return creators.all.data();
}

extern "C" ZG_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { zerograsp::tensorrt::set_logger_finder(finder); }

// Version of the TensorRT headers that the library was built with, as NV_TENSORRT_VERSION has it. It works with that
// major version of TensorRT only: classes of TensorRT changed their layout between majors.
extern "C" ZG_API int32_t zg_tensorrt_version(void) { return NV_TENSORRT_VERSION; }
