#include "tensorrt/shapes.h"

#include <cstdlib>
#include <sstream>

namespace zerograsp {
namespace tensorrt {
namespace {

// One word of a declared shape.
struct Term {
  std::int64_t factor = 1;
  std::string symbol;  // empty: the factor is the size
};

std::vector<Term> parse(const char* shape) {
  std::vector<Term> terms;
  std::istringstream words(shape);
  for (std::string word; words >> word;) {
    const std::size_t digits = word.find_first_not_of("0123456789");
    Term term;
    if (digits != 0) term.factor = std::strtoll(word.c_str(), nullptr, 10);
    if (digits != std::string::npos) term.symbol = word.substr(digits);
    terms.push_back(term);
  }
  return terms;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text = "(";
  for (std::size_t i = 0; i < words.size(); ++i) text += (i ? ", " : "") + words[i];
  return text + (words.size() == 1 ? ",)" : ")");
}

std::string text_of(const Shape& shape) {
  std::vector<std::string> words;
  for (const Size& size : shape) words.push_back(size.value < 0 ? "?" : std::to_string(size.value));
  return joined(words);
}

}  // namespace

Shape shape_of(const nvinfer1::Dims& dims) {
  Shape shape(static_cast<std::size_t>(dims.nbDims < 0 ? 0 : dims.nbDims));
  for (std::size_t i = 0; i < shape.size(); ++i) shape[i].value = dims.d[i];
  return shape;
}

Shape shape_of(const nvinfer1::DimsExprs& dims) {
  Shape shape(static_cast<std::size_t>(dims.nbDims < 0 ? 0 : dims.nbDims));
  for (std::size_t i = 0; i < shape.size(); ++i) {
    shape[i].expression = dims.d[i];
    if (dims.d[i]->isConstant()) shape[i].value = dims.d[i]->getConstantValue();
  }
  return shape;
}

void check_count(const Node& node, int inputs) {
  int most = 0, least = 0;
  std::vector<std::string> names;
  for (const Tensor& tensor : node.inputs) {
    ++most;
    least += tensor.optional ? 0 : 1;
    names.push_back(tensor.optional ? std::string("[") + tensor.name + "]" : tensor.name);
  }
  if (inputs != least && inputs != most)
    throw Error("expected the inputs " + joined(names) + ", got " + std::to_string(inputs) + " of them");
}

Shapes::Shapes(const Node& node, const Attributes& attributes, const std::vector<Shape>& inputs) : node_(node) {
  check_count(node, static_cast<int>(inputs.size()));
  if (node.attributes & kResolution) sizes_["r"].value = attributes.resolution;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check("input", node.inputs[i], inputs[i]);
    // As soon as it is known, that the input which contradicts it is named.
    const auto known = node.same[0] != nullptr ? sizes_.find(node.same[0]) : sizes_.end();
    if (known != sizes_.end() && inputs.size() < node.inputs.size()) sizes_.emplace(node.same[1], known->second);
  }
}

void Shapes::check_output(const Shape& output) { check("output", node_.output, output); }

void Shapes::check(const char* role, const Tensor& tensor, const Shape& shape) {
  const std::vector<Term> terms = parse(tensor.shape);
  std::vector<std::string> declared, expected;
  bool fits = shape.size() == terms.size();
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const Term& term = terms[i];
    declared.push_back(term.symbol.empty() || term.factor != 1 ? std::to_string(term.factor) + term.symbol : term.symbol);
    std::int64_t size = term.factor;
    if (!term.symbol.empty()) {
      const auto known = sizes_.find(term.symbol);
      size = known == sizes_.end() || known->second.value < 0 ? -1 : term.factor * known->second.value;
    }
    expected.push_back(size < 0 ? declared.back() : std::to_string(size));
    if (i < shape.size() && size >= 0 && shape[i].value >= 0) fits = fits && shape[i].value == size;
    if (i < shape.size() && term.factor == 1 && !term.symbol.empty() && fits) {
      Size& bound = sizes_[term.symbol];
      if (bound.value < 0) bound.value = shape[i].value;
      if (bound.expression == nullptr) bound.expression = shape[i].expression;
    }
  }
  if (fits) return;
  const std::string names = joined(declared), sizes = joined(expected);
  throw Error(std::string(role) + " " + tensor.name + ": expected " + names + (names == sizes ? "" : " = " + sizes) +
              ", got " + text_of(shape));
}

nvinfer1::DimsExprs Shapes::output(nvinfer1::IExprBuilder& builder) const {
  nvinfer1::DimsExprs dims{};
  for (const Term& term : parse(node_.output.shape)) {
    const auto known = sizes_.find(term.symbol);
    const nvinfer1::IDimensionExpr* size = known == sizes_.end() ? nullptr : known->second.expression;
    if (term.symbol.empty()) {
      size = builder.constant(term.factor);
    } else if (size == nullptr) {
      size = builder.constant(term.factor * known->second.value);
    } else if (term.factor != 1) {
      size = builder.operation(nvinfer1::DimensionOperation::kPROD, *builder.constant(term.factor), *size);
    }
    dims.d[dims.nbDims++] = size;
  }
  return dims;
}

}  // namespace tensorrt
}  // namespace zerograsp
