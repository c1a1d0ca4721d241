// Shapes of a node's tensors: checked against what the node declares, and the output's computed from the inputs'.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "tensorrt/node.h"

namespace zerograsp {
namespace tensorrt {

// A dimension: a number or, while a network is built, an expression that may not be one yet.
struct Size {
  std::int64_t value = -1;  // -1: not known
  const nvinfer1::IDimensionExpr* expression = nullptr;
};
using Shape = std::vector<Size>;

Shape shape_of(const nvinfer1::Dims& dims);
Shape shape_of(const nvinfer1::DimsExprs& dims);

class Shapes {
 public:
  // Sizes of a node's symbols from the shapes of its inputs. Throws Error for a shape that contradicts the declared one.
  Shapes(const Node& node, const Attributes& attributes, const std::vector<Shape>& inputs);

  // Throws Error for an output that has another shape.
  void check_output(const Shape& output);
  nvinfer1::DimsExprs output(nvinfer1::IExprBuilder& builder) const;

 private:
  void check(const char* role, const Tensor& tensor, const Shape& shape);

  const Node& node_;
  std::map<std::string, Size> sizes_;
};

// Throws Error unless there are as many inputs as the node takes.
void check_count(const Node& node, int inputs);

}  // namespace tensorrt
}  // namespace zerograsp
