// What TensorRT does with a plugin, from creator to enqueue, for tests that call it from Python. Linked with the plugins and,
// compiled for the CPU, the kernels; no TensorRT library takes part.
#include <NvInferRuntime.h>

#include <cstring>
#include <list>
#include <memory>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace {

using nvinfer1::Dims;

// ---- logger ----

std::string log_text;

struct Logger final : nvinfer1::ILogger {
  void log(Severity severity, const char* text) noexcept override {
    log_text += (severity == Severity::kERROR ? "error: " : "other: ") + std::string(text) + "\n";
  }
} logger;

struct Finder final : nvinfer1::ILoggerFinder {
  nvinfer1::ILogger* findLogger() override { return &logger; }
} finder;

// ---- dimensions of a network: numbers and names, and what is computed from them, as text ----

struct Dimension final : nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
  bool constant;
  std::int64_t value;
  std::string text;

  Dimension(bool constant_, std::int64_t value_, std::string text_)
      : constant(constant_), value(value_), text(std::move(text_)) {
    mImpl = this;
  }
  bool isConstant() const override { return constant; }
  std::int64_t getConstantValue() const override { return value; }
  bool isSizeTensor() const override { return false; }
};

struct Builder final : nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
  std::list<Dimension> made;

  Builder() { mImpl = this; }
  const Dimension* number(std::int64_t value) { return &made.emplace_back(true, value, std::to_string(value)); }
  const Dimension* named(const std::string& name) { return &made.emplace_back(false, 0, name); }

  const nvinfer1::IDimensionExpr* constant(std::int64_t value) override { return number(value); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op, const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    const auto& a = static_cast<const Dimension&>(first);
    const auto& b = static_cast<const Dimension&>(second);
    if (op != nvinfer1::DimensionOperation::kPROD) return nullptr;
    if (a.constant && b.constant) return number(a.value * b.value);
    return named(a.text + "*" + b.text);
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
};

nvinfer1::IPluginCreatorV3One* creator_of(const char* name) {
  std::int32_t count = 0;
  auto* const* all = getCreators(count);
  for (std::int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]);
    if (std::strcmp(creator->getPluginName(), name) == 0) return creator;
  }
  return nullptr;
}

template <class T>
T* capability(nvinfer1::IPluginV3* plugin, nvinfer1::PluginCapabilityType type) {
  return static_cast<T*>(plugin->getCapabilityInterface(type));
}
auto* build_of(nvinfer1::IPluginV3* p) {
  return capability<nvinfer1::IPluginV3OneBuild>(p, nvinfer1::PluginCapabilityType::kBUILD);
}
auto* runtime_of(nvinfer1::IPluginV3* p) {
  return capability<nvinfer1::IPluginV3OneRuntime>(p, nvinfer1::PluginCapabilityType::kRUNTIME);
}
auto* core_of(nvinfer1::IPluginV3* p) {
  return capability<nvinfer1::IPluginV3OneCore>(p, nvinfer1::PluginCapabilityType::kCORE);
}

}  // namespace

// A tensor as Python describes it: type and format by TensorRT's numbers, dimensions, and the bounds of a profile.
struct HostTensor {
  std::int32_t type, format, rank;
  std::int64_t now[8], optimum[8], largest[8];
};

namespace {

Dims dims_of(std::int32_t rank, const std::int64_t* sizes) {
  Dims dims{};
  dims.nbDims = rank;
  for (std::int32_t i = 0; i < rank; ++i) dims.d[i] = static_cast<decltype(dims.d[0] + 0)>(sizes[i]);
  return dims;
}

nvinfer1::PluginTensorDesc description(const HostTensor& tensor) {
  nvinfer1::PluginTensorDesc d{};
  d.dims = dims_of(tensor.rank, tensor.now);
  d.type = static_cast<nvinfer1::DataType>(tensor.type);
  d.format = static_cast<nvinfer1::TensorFormat>(tensor.format);
  d.scale = 1.0f;
  return d;
}

std::vector<nvinfer1::PluginTensorDesc> descriptions(const HostTensor* tensors, std::int32_t count) {
  std::vector<nvinfer1::PluginTensorDesc> all;
  for (std::int32_t i = 0; i < count; ++i) all.push_back(description(tensors[i]));
  return all;
}

std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const HostTensor* tensors, std::int32_t count) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    all[i].desc = description(tensors[i]);
    all[i].min = all[i].opt = dims_of(tensors[i].rank, tensors[i].optimum);
    all[i].max = dims_of(tensors[i].rank, tensors[i].largest);
  }
  return all;
}

std::string text;  // of the last result that is one

}  // namespace

EXPORT const char* host_log() {
  text = log_text;
  log_text.clear();
  return text.c_str();
}

EXPORT void host_use_logger(int with_one) { setLoggerFinder(with_one ? &finder : nullptr); }

// "name version namespace field:type:length,..." of every creator, one a line.
EXPORT const char* host_creators() {
  std::int32_t count = 0;
  auto* const* all = getCreators(count);
  text.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]);
    text += std::string(creator->getPluginName()) + " " + creator->getPluginVersion() + " " + creator->getPluginNamespace() + " ";
    const auto* names = creator->getFieldNames();
    for (std::int32_t k = 0; k < names->nbFields; ++k)
      text += std::string(k ? "," : "") + names->fields[k].name + ":" + std::to_string(static_cast<int>(names->fields[k].type)) +
              ":" + std::to_string(names->fields[k].length);
    text += "\n";
  }
  return text.c_str();
}

EXPORT void* host_create(const char* name, std::int32_t fields, const char* const* field_names, const std::int32_t* types,
                         const std::int32_t* lengths, const void* const* data, std::int32_t phase) {
  auto* creator = creator_of(name);
  if (creator == nullptr) return nullptr;
  std::vector<nvinfer1::PluginField> all;
  for (std::int32_t i = 0; i < fields; ++i)
    all.emplace_back(field_names[i], data[i], static_cast<nvinfer1::PluginFieldType>(types[i]), lengths[i]);
  const nvinfer1::PluginFieldCollection collection{fields, all.data()};
  return creator->createPlugin("layer", &collection, static_cast<nvinfer1::TensorRTPhase>(phase));
}

EXPORT void host_destroy(void* plugin) { delete static_cast<nvinfer1::IPluginV3*>(plugin); }

EXPORT void* host_clone(void* plugin) { return static_cast<nvinfer1::IPluginV3*>(plugin)->clone(); }

EXPORT void* host_attach(void* plugin) {
  return runtime_of(static_cast<nvinfer1::IPluginV3*>(plugin))->attachToContext(nullptr);
}

// What an engine file does: the fields' bytes outlive the plugin, and another one is made of them.
EXPORT void* host_reload(void* handle) {
  auto* plugin = static_cast<nvinfer1::IPluginV3*>(handle);
  const std::string name = core_of(plugin)->getPluginName();
  const auto* fields = runtime_of(plugin)->getFieldsToSerialize();
  std::vector<std::string> names, bytes;
  std::vector<nvinfer1::PluginField> copies;
  for (std::int32_t i = 0; i < fields->nbFields; ++i) {
    const auto& field = fields->fields[i];
    const std::size_t size = field.type == nvinfer1::PluginFieldType::kCHAR ? 1 : 4;
    names.emplace_back(field.name);
    bytes.emplace_back(static_cast<const char*>(field.data), size * static_cast<std::size_t>(field.length));
    copies.push_back(field);
  }
  delete plugin;
  for (std::size_t i = 0; i < copies.size(); ++i) copies[i].name = names[i].c_str(), copies[i].data = bytes[i].data();
  const nvinfer1::PluginFieldCollection collection{static_cast<std::int32_t>(copies.size()), copies.data()};
  return creator_of(name.c_str())->createPlugin("layer", &collection, nvinfer1::TensorRTPhase::kRUNTIME);
}

// "name version namespace outputs metadata timing-id"
EXPORT const char* host_describe(void* handle) {
  auto* plugin = static_cast<nvinfer1::IPluginV3*>(handle);
  auto* core = core_of(plugin);
  auto* build = build_of(plugin);
  text = std::string(core->getPluginName()) + "|" + core->getPluginVersion() + "|" + core->getPluginNamespace() + "|" +
         std::to_string(build->getNbOutputs()) + "|" + build->getMetadataString() + "|" + build->getTimingCacheID();
  return text.c_str();
}

// The output's shape as text, from dimensions that are numbers or names: "27, 8*S". Null: refused.
EXPORT const char* host_shape(void* plugin, std::int32_t inputs, const std::int32_t* ranks, const char* const* dimensions) {
  Builder builder;
  std::vector<nvinfer1::DimsExprs> shapes(static_cast<std::size_t>(inputs));
  for (std::int32_t i = 0, k = 0; i < inputs; ++i) {
    shapes[i].nbDims = ranks[i];
    for (std::int32_t axis = 0; axis < ranks[i]; ++axis, ++k) {
      const std::string word = dimensions[k];
      const bool number = word.find_first_not_of("0123456789") == std::string::npos;
      shapes[i].d[axis] = number ? builder.number(std::stoll(word)) : builder.named(word);
    }
  }
  nvinfer1::DimsExprs output{};
  auto* build = build_of(static_cast<nvinfer1::IPluginV3*>(plugin));
  if (build->getOutputShapes(shapes.data(), inputs, nullptr, 0, &output, 1, builder) != 0) return nullptr;
  text.clear();
  for (std::int32_t i = 0; i < output.nbDims; ++i)
    text += (i ? ", " : "") + static_cast<const Dimension*>(output.d[i])->text;
  return text.c_str();
}

// The output's type, -1: refused.
EXPORT std::int32_t host_type(void* plugin, std::int32_t inputs, const std::int32_t* types) {
  std::vector<nvinfer1::DataType> all;
  for (std::int32_t i = 0; i < inputs; ++i) all.push_back(static_cast<nvinfer1::DataType>(types[i]));
  nvinfer1::DataType output{};
  auto* build = build_of(static_cast<nvinfer1::IPluginV3*>(plugin));
  return build->getOutputDataTypes(&output, 1, all.data(), inputs) == 0 ? static_cast<std::int32_t>(output) : -1;
}

// tensors: inputs, then the output.
EXPORT std::int32_t host_supports(void* plugin, std::int32_t position, const HostTensor* tensors, std::int32_t inputs) {
  return build_of(static_cast<nvinfer1::IPluginV3*>(plugin))
      ->supportsFormatCombination(position, dynamic(tensors, inputs + 1).data(), inputs, 1);
}

EXPORT std::int32_t host_configure(void* plugin, const HostTensor* tensors, std::int32_t inputs) {
  const auto all = dynamic(tensors, inputs + 1);
  return build_of(static_cast<nvinfer1::IPluginV3*>(plugin))->configurePlugin(all.data(), inputs, all.data() + inputs, 1);
}

EXPORT std::size_t host_workspace(void* plugin, const HostTensor* tensors, std::int32_t inputs) {
  const auto all = dynamic(tensors, inputs + 1);
  return build_of(static_cast<nvinfer1::IPluginV3*>(plugin))->getWorkspaceSize(all.data(), inputs, all.data() + inputs, 1);
}

EXPORT std::int32_t host_shapes_change(void* plugin, const HostTensor* tensors, std::int32_t inputs) {
  const auto all = descriptions(tensors, inputs + 1);
  return runtime_of(static_cast<nvinfer1::IPluginV3*>(plugin))->onShapeChange(all.data(), inputs, all.data() + inputs, 1);
}

EXPORT std::int32_t host_enqueue(void* plugin, const HostTensor* tensors, std::int32_t inputs, const void* const* data,
                                 void* output, void* workspace) {
  const auto all = descriptions(tensors, inputs + 1);
  void* const outputs[] = {output};
  return runtime_of(static_cast<nvinfer1::IPluginV3*>(plugin))
      ->enqueue(all.data(), all.data() + inputs, data, outputs, workspace, nullptr);
}
