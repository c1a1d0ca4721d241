#include "tensorrt/plugin.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "tensorrt/log.h"
#include "tensorrt/shapes.h"

namespace zerograsp {
namespace tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr char kNamespace[] = "zerograsp";
constexpr char kVersion[] = "1";
constexpr char kInputs[] = "inputs";  // the field with the number of inputs, for the runtime only
constexpr std::int32_t kMaxResolution = 32;

const char* const kActivations[] = {"none", "gelu", "elu", "relu"};  // by ZgActivation

// A float that must be above 0: its bit of Node::attributes, where it is kept, and what it is.
struct Positive {
  const char* name;
  Attribute bit;
  float Attributes::*value;
  const char* what;
};
constexpr Positive kPositive[] = {{"edge", kEdge, &Attributes::edge, "a length in mm"},
                                  {"x_scale", kScale, &Attributes::x_scale, "a scale"},
                                  {"first_scale", kHiddenScales, &Attributes::first_scale, "a scale"},
                                  {"second_scale", kHiddenScales, &Attributes::second_scale, "a scale"}};

// Runs f, which returns what the caller shall return; an exception goes to the log and gives `failure`.
template <class Result, class F>
Result guarded(const Node& node, Result failure, F&& f) noexcept {
  try {
    return f();
  } catch (const std::exception& error) {
    log_error(std::string(kNamespace) + "::" + node.name + ": " + error.what());
    return failure;
  }
}

// ---- types ----

std::string name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
    case DataType::kINT8: return "int8";
    case DataType::kINT32: return "int32";
    case DataType::kBOOL: return "bool";
    case DataType::kUINT8: return "uint8";
    case DataType::kBF16: return "bfloat16";
    case DataType::kINT64: return "int64";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

static_assert(static_cast<int>(DataType::kFLOAT) == kZgFloat32 && static_cast<int>(DataType::kHALF) == kZgFloat16 &&
                  static_cast<int>(DataType::kINT8) == kZgInt8,
              "features are passed on to the kernels by TensorRT's number of their type");

// Is it what the element needs, where `feature` is the type of the node's first input?
bool fits(Element element, DataType type, DataType feature) {
  switch (element) {
    case Element::kFeature: return type == feature && (type == DataType::kFLOAT || type == DataType::kHALF);
    case Element::kFloat: return type == DataType::kFLOAT;
    case Element::kInt8: return type == DataType::kINT8;
    case Element::kInt32: return type == DataType::kINT32;
    case Element::kInt64: return type == DataType::kINT64;
    default: return type == DataType::kBOOL;
  }
}

std::string expected_type(Element element, bool first, DataType feature) {
  switch (element) {
    case Element::kFeature:
      return first || !fits(Element::kFeature, feature, feature) ? "float32 or float16" : name_of(feature) + ", as the first input is";
    case Element::kFloat: return "float32";
    case Element::kInt8: return "int8";
    case Element::kInt32: return "int32";
    case Element::kInt64: return "int64";
    default: return "bool";
  }
}

DataType output_type(const Node& node, DataType feature) {
  switch (node.output.element) {
    case Element::kFeature: return feature;
    case Element::kFloat: return DataType::kFLOAT;
    default: return DataType::kINT32;
  }
}

// ---- attributes ----

std::string text_of(const Node& node, const Attributes& attributes) {
  std::string text = node.name;
  const auto append = [&](const char* name, const std::string& value) { text += std::string(" ") + name + "=" + value; };
  if (node.attributes & kActivation) append("activation", kActivations[attributes.activation]);
  const auto number = [](float value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
    return std::string(digits);
  };
  for (const Positive& attribute : kPositive)
    if (node.attributes & attribute.bit) append(attribute.name, number(attributes.*attribute.value));
  if (node.attributes & kResolution) append("resolution", std::to_string(attributes.resolution));
  return text;
}

template <class T>
T scalar(const PluginField& field, PluginFieldType type, const char* expected) {
  if (field.type != type || field.length != 1 || field.data == nullptr)
    throw Error(std::string("attribute ") + field.name + ": expected one " + expected + ", got " +
                std::to_string(field.length) + " of field type " + std::to_string(static_cast<int>(field.type)));
  T value;
  std::memcpy(&value, field.data, sizeof value);
  return value;
}

std::int32_t activation_of(const PluginField& field) {
  const std::string attribute = std::string("attribute ") + field.name;
  if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 0)
    throw Error(attribute + ": expected a string, got field type " + std::to_string(static_cast<int>(field.type)));
  std::string name(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
  while (!name.empty() && name.back() == '\0') name.pop_back();
  for (std::int32_t i = 0; i < 4; ++i)
    if (name == kActivations[i]) return i;
  throw Error(attribute + ": expected none, gelu, elu or relu, got '" + name + "'");
}

float positive(const PluginField& field, const char* what) {
  const float value = scalar<float>(field, PluginFieldType::kFLOAT32, "float32");
  if (value > 0.0f && std::isfinite(value)) return value;
  throw Error(std::string("attribute ") + field.name + ": expected " + what + " above 0, got " + std::to_string(value));
}

const Positive* positive_named(const Node& node, const std::string& name) {
  for (const Positive& attribute : kPositive)
    if (node.attributes & attribute.bit && name == attribute.name) return &attribute;
  return nullptr;
}

struct Settings {
  Attributes attributes;
  std::int32_t inputs = 0;
};

Settings settings_of(const Node& node, const nvinfer1::PluginFieldCollection* fields) {
  Settings settings;
  Attributes& a = settings.attributes;
  for (std::int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    const std::string name = field.name;
    const auto is = [&](const char* attribute, Attribute of) { return name == attribute && (node.attributes & of) != 0; };
    if (is("activation", kActivation)) {
      a.activation = activation_of(field);
    } else if (is("resolution", kResolution)) {
      a.resolution = scalar<std::int32_t>(field, PluginFieldType::kINT32, "int32");
      if (a.resolution < 1 || a.resolution > kMaxResolution)
        throw Error("attribute resolution: expected 1 to " + std::to_string(kMaxResolution) + ", got " + std::to_string(a.resolution));
    } else if (const Positive* attribute = positive_named(node, name)) {
      a.*attribute->value = positive(field, attribute->what);
    } else if (name == kInputs) {
      settings.inputs = scalar<std::int32_t>(field, PluginFieldType::kINT32, "int32");
    } else if (name != "plugin_version" && name != "plugin_namespace") {
      throw Error("attribute " + name + ": the node has none of this name");
    }
  }
  for (const Positive& attribute : kPositive)
    if (node.attributes & attribute.bit && a.*attribute.value == 0.0f)
      throw Error(std::string("attribute ") + attribute.name + ": expected " + attribute.what + ", it is missing");
  if (node.attributes & kResolution && a.resolution == 0) throw Error("attribute resolution: expected 1 to 32, it is missing");
  return settings;
}

// ---- shapes ----

enum class Bound { kNow, kOptimum };

std::vector<Shape> shapes_of(const nvinfer1::DynamicPluginTensorDesc* tensors, std::int32_t count, Bound bound) {
  std::vector<Shape> shapes;
  for (std::int32_t i = 0; i < count; ++i) shapes.push_back(shape_of(bound == Bound::kNow ? tensors[i].desc.dims : tensors[i].opt));
  return shapes;
}

}  // namespace

// ---- creator ----

Creator::Creator(Node node) : node_(std::move(node)) {
  if (node_.attributes & kActivation) fields_.emplace_back("activation", nullptr, PluginFieldType::kCHAR, 0);
  for (const Positive& attribute : kPositive)
    if (node_.attributes & attribute.bit) fields_.emplace_back(attribute.name, nullptr, PluginFieldType::kFLOAT32, 1);
  if (node_.attributes & kResolution) fields_.emplace_back("resolution", nullptr, PluginFieldType::kINT32, 1);
  collection_.nbFields = static_cast<std::int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

nvinfer1::IPluginV3* Creator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
  return guarded<nvinfer1::IPluginV3*>(node_, nullptr, [&] {
    const Settings settings = settings_of(node_, fields);
    return new Plugin(node_, settings.attributes, settings.inputs);
  });
}

const nvinfer1::PluginFieldCollection* Creator::getFieldNames() noexcept { return &collection_; }
const char* Creator::getPluginName() const noexcept { return node_.name; }
const char* Creator::getPluginVersion() const noexcept { return kVersion; }
const char* Creator::getPluginNamespace() const noexcept { return kNamespace; }

// ---- plugin: what it is ----

Plugin::Plugin(const Node& node, const Attributes& attributes, std::int32_t inputs)
    : node_(node), attributes_(attributes), inputs_(inputs), text_(text_of(node, attributes)) {}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(node_, nullptr, [&] { return new Plugin(*this); });
}

const char* Plugin::getPluginName() const noexcept { return node_.name; }
const char* Plugin::getPluginVersion() const noexcept { return kVersion; }
const char* Plugin::getPluginNamespace() const noexcept { return kNamespace; }

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded<const nvinfer1::PluginFieldCollection*>(node_, nullptr, [&] {
    fields_.clear();
    if (node_.attributes & kActivation) {
      const char* const name = kActivations[attributes_.activation];
      fields_.emplace_back("activation", name, PluginFieldType::kCHAR, static_cast<std::int32_t>(std::strlen(name)));
    }
    for (const Positive& attribute : kPositive)
      if (node_.attributes & attribute.bit)
        fields_.emplace_back(attribute.name, &(attributes_.*attribute.value), PluginFieldType::kFLOAT32, 1);
    if (node_.attributes & kResolution)
      fields_.emplace_back("resolution", &attributes_.resolution, PluginFieldType::kINT32, 1);
    fields_.emplace_back(kInputs, &inputs_, PluginFieldType::kINT32, 1);
    collection_.nbFields = static_cast<std::int32_t>(fields_.size());
    collection_.fields = fields_.data();
    return &collection_;
  });
}

// ---- plugin: while an engine is built ----

int32_t Plugin::getNbOutputs() const noexcept { return 1; }

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t, const DataType* inputs, int32_t input_count) const noexcept {
  return guarded(node_, -1, [&] {
    check_count(node_, input_count);
    for (std::int32_t i = 0; i < input_count; ++i) {
      const Tensor& tensor = node_.inputs[static_cast<std::size_t>(i)];
      if (!fits(tensor.element, inputs[i], inputs[0]))
        throw Error(std::string("input ") + tensor.name + ": expected " + expected_type(tensor.element, i == 0, inputs[0]) +
                    ", got " + name_of(inputs[i]));
    }
    outputs[0] = output_type(node_, inputs[0]);
    return 0;
  });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*, int32_t,
                                nvinfer1::DimsExprs* outputs, int32_t, nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(node_, -1, [&] {
    std::vector<Shape> shapes;
    for (std::int32_t i = 0; i < input_count; ++i) shapes.push_back(shape_of(inputs[i]));
    outputs[0] = Shapes(node_, attributes_, shapes).output(builder);
    inputs_ = input_count;
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                       int32_t input_count, int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  const DataType feature = tensors[0].desc.type;
  if (position >= input_count) return tensor.type == output_type(node_, feature);
  const auto index = static_cast<std::size_t>(position);
  return index < node_.inputs.size() && fits(node_.inputs[index].element, tensor.type, feature);
}

int32_t Plugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
  return guarded(node_, -1, [&] {
    Shapes(node_, attributes_, shapes_of(inputs, input_count, Bound::kNow));
    Shapes(node_, attributes_, shapes_of(inputs, input_count, Bound::kOptimum));
    inputs_ = input_count;
    return 0;
  });
}

size_t Plugin::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept {
  if (node_.workspace == nullptr) return 0;
  return guarded(node_, std::size_t{0}, [&] {
    // What the largest inputs of the profile need; every size's need grows with it.
    std::vector<nvinfer1::PluginTensorDesc> largest;
    for (std::int32_t i = 0; i < input_count; ++i) {
      largest.push_back(inputs[i].desc);
      largest.back().dims = inputs[i].max;
    }
    return node_.workspace(Call{largest.data(), input_count, nullptr, nullptr, nullptr, nullptr}, attributes_);
  });
}

// There is one tactic and one format, so nothing to choose; the ID only lets a cache spare the measurement.
const char* Plugin::getTimingCacheID() noexcept { return text_.c_str(); }
const char* Plugin::getMetadataString() noexcept { return text_.c_str(); }

// ---- plugin: while an engine runs ----

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

int32_t Plugin::onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                              const nvinfer1::PluginTensorDesc* outputs, int32_t output_count) noexcept {
  return guarded(node_, -1, [&] {
    std::vector<Shape> shapes;
    for (std::int32_t i = 0; i < input_count; ++i) shapes.push_back(shape_of(inputs[i].dims));
    Shapes checked(node_, attributes_, shapes);
    if (output_count > 0) checked.check_output(shape_of(outputs[0].dims));
    inputs_ = input_count;
    return 0;
  });
}

int32_t Plugin::enqueue(const nvinfer1::PluginTensorDesc* input_descriptions, const nvinfer1::PluginTensorDesc*,
                        const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const Call call{input_descriptions, inputs_, inputs, outputs[0], workspace, stream};
  const int error = node_.launch(call, attributes_);
  if (error == 0) return 0;
  return guarded(node_, -1, [&]() -> int32_t { throw Error(zg_cuda_error_text(error)); });
}

}  // namespace tensorrt
}  // namespace zerograsp
