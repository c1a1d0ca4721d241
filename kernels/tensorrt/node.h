// A node of the domain `zerograsp` as data: inputs with their types and shapes, attributes, output, and how it is launched.
// plugin.cpp makes a TensorRT plugin of it. Errors are exceptions in here and TensorRT's log outside.
#pragma once
#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/api.h"

namespace zerograsp {
namespace tensorrt {

enum class Element {
  kFeature,  // float32 or float16, the same for all of a node
  kFloat,
  kInt8,
  kInt32,
  kInt64,
  kBool  // a byte, 0 or 1: TensorRT gives plugins no uint8
};

// Shapes are written as in kernels/README.md, one word a dimension: a number, a symbol ("Cin"), a multiple of one ("8S").
// A symbol means the same size wherever it occurs in a node; "r" is the attribute `resolution`.
struct Tensor {
  const char* name;
  Element element;
  const char* shape;
  bool optional = false;  // such inputs come last, and all or none of them are there
};

// Bits of Node::attributes.
enum Attribute : unsigned { kActivation = 1, kEdge = 2, kResolution = 4, kScale = 8, kHiddenScales = 16 };

struct Attributes {
  std::int32_t activation = kZgNone;
  float edge = 0.0f;  // mm
  std::int32_t resolution = 0;
  // What an int8 stands for: of the input (kScale), and of both hidden values (kHiddenScales).
  float x_scale = 0.0f, first_scale = 0.0f, second_scale = 0.0f;
};

// What a launch gets. Types and shapes have been checked.
struct Call {
  const nvinfer1::PluginTensorDesc* descriptions;  // of the inputs
  int count;                                       // of the inputs
  const void* const* inputs;
  void* output;
  void* workspace;
  CUstream_st* stream;

  std::int64_t dim(int input, int axis) const { return descriptions[input].dims.d[axis]; }
  std::int32_t size(int input, int axis) const { return static_cast<std::int32_t>(dim(input, axis)); }
  std::int32_t type() const { return static_cast<std::int32_t>(descriptions[0].type); }  // of the features: ZgType
  bool has(int input) const { return input < count; }
  template <class T>
  const T* input(int i) const {
    return has(i) ? static_cast<const T*>(inputs[i]) : nullptr;
  }
};

struct Node {
  const char* name;
  std::vector<Tensor> inputs;
  Tensor output;
  unsigned attributes = 0;
  // Symbols that mean the same size where the optional input is missing; null: none.
  const char* same[2] = {nullptr, nullptr};
  // Bytes for inputs of these shapes, of which only sizes and types are looked at; null: none.
  std::size_t (*workspace)(const Call& call, const Attributes& attributes) = nullptr;
  // Enqueues kernels on the stream and returns a cudaError_t.
  int (*launch)(const Call& call, const Attributes& attributes) = nullptr;
};

// The nodes, one function per source.
std::vector<Node> convolution_nodes();
std::vector<Node> int8_nodes();
std::vector<Node> octree_nodes();
std::vector<Node> occlusion_nodes();

struct Error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

}  // namespace tensorrt
}  // namespace zerograsp
