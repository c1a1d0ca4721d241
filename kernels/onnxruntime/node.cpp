#include "onnxruntime/node.h"

#include <type_traits>

namespace zerograsp::ort {
namespace {

void check(const Api& api, Status* status, const std::string& what) {
  if (status == nullptr) return;
  api.release_status(status);
  throw std::runtime_error("ONNX Runtime could not " + what);
}

std::vector<std::int64_t> shape_of(const Api& api, const Value* value) {
  ShapeInfo* info = nullptr;
  check(api, api.type_and_shape(value, &info), "read a shape");
  std::size_t rank = 0;
  Status* status = api.dimension_count(info, &rank);
  std::vector<std::int64_t> shape(rank);
  if (status == nullptr) status = api.dimensions(info, shape.data(), rank);
  api.release_shape(info);
  check(api, status, "read a shape");
  return shape;
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

void Info::fail(const std::string& message) const { throw std::invalid_argument(std::string("zerograsp::") + node_ + ": " + message); }

std::size_t Info::input_count() const {
  std::size_t count = 0;
  check(api_, api_.info_input_count(info_, &count), "count the inputs");
  return count;
}

const void* Info::initialiser(std::size_t index, const char* name, std::size_t rank, std::vector<std::int64_t>& shape) const {
  int is_constant = 0;
  const Value* value = nullptr;
  Status* status = api_.constant_input(info_, index, &is_constant, &value);
  if (status != nullptr) {
    api_.release_status(status);
    is_constant = 0;
  }
  if (is_constant == 0 || value == nullptr) fail(std::string("input ") + name + " must be an initialiser of the graph");
  shape = shape_of(api_, value);
  if (shape.size() != rank)
    fail(std::string("input ") + name + ": expected rank " + std::to_string(rank) + ", got " + shape_text(shape));
  void* data = nullptr;
  check(api_, api_.tensor_data(value, &data), "read an initialiser");
  return data;
}

template <class T>
Constant Info::constant(std::size_t index, const char* name, std::size_t rank) const {
  Constant t;
  const void* data = initialiser(index, name, rank, t.shape);
  if constexpr (std::is_same_v<T, float>) {
    t.data = static_cast<const float*>(data);
  } else {
    std::int64_t count = 1;
    for (std::int64_t n : t.shape) count *= n;
    t.widened.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) t.widened[static_cast<std::size_t>(i)] = widen(static_cast<const T*>(data)[i]);
    t.data = t.widened.data();
  }
  return t;
}

template <class T>
Constant Info::weight(std::size_t index, const char* name, int taps) const {
  Constant w = constant<T>(index, name, 3);
  const bool fits = taps == 0 ? w.dim(0) > 0 : w.dim(0) == taps;
  if (!fits || w.dim(1) < 1 || w.dim(2) < 1 || w.dim(2) > kMaxOutputs)
    fail(std::string("input ") + name + ": expected (" + (taps == 0 ? "taps" : std::to_string(taps)) + ", cin, cout) with cout up to " +
         std::to_string(kMaxOutputs) + ", got " + shape_text(w.shape));
  return w;
}

Constant Info::vector(std::size_t index, const char* name, std::int64_t cout) const {
  Constant b = constant<float>(index, name, 1);
  if (b.dim(0) != cout)
    fail(std::string("input ") + name + ": expected " + std::to_string(cout) + " entries, got " + shape_text(b.shape));
  return b;
}

template <class T>
PackedWeight Info::packed(std::size_t index, const char* name, int taps, const char* bias_name) const {
  const Constant w = weight<T>(index, name, taps);
  const float* b = bias_name == nullptr ? nullptr : vector(index + 1, bias_name, w.dim(2)).data;
  return PackedWeight(w.data, b, static_cast<int>(w.dim(0)), static_cast<int>(w.dim(1)), static_cast<int>(w.dim(2)));
}

template Constant Info::weight<float>(std::size_t, const char*, int) const;
template Constant Info::weight<Half>(std::size_t, const char*, int) const;
template PackedWeight Info::packed<float>(std::size_t, const char*, int, const char*) const;
template PackedWeight Info::packed<Half>(std::size_t, const char*, int, const char*) const;

PackedInt8 Info::packed_int8(std::size_t index, const char* name, const char* bias_name, float x_scale,
                             Int8Layout layout) const {
  std::vector<std::int64_t> shape;
  const auto* w = static_cast<const std::int8_t*>(initialiser(index, name, 3, shape));
  const std::int64_t taps = shape[layout.taps_first ? 0 : 1], cout = shape[layout.taps_first ? 1 : 0], cin = shape[2];
  const std::string order = layout.taps_first ? "(taps, cout, cin)" : "(cout, taps, cin)";
  if (taps < 1 || (layout.taps != 0 && taps != layout.taps) || cin < 1 || cout < 1 || cout > kMaxOutputs || taps * cin > kMostInt8Terms)
    fail(std::string("input ") + name + ": expected " + order + (layout.taps == 0 ? "" : " of " + std::to_string(layout.taps) + " taps") +
         " with cout up to " + std::to_string(kMaxOutputs) + " and taps * cin up to " + std::to_string(kMostInt8Terms) + ", got " +
         shape_text(shape));
  const Constant scales = vector(index + 1, (std::string(name) + "_scale").c_str(), cout);
  Constant b;
  if (bias_name != nullptr) b = vector(index + 2, bias_name, cout);
  const int rows = static_cast<int>(layout.as_one_row ? 1 : taps), columns = static_cast<int>(layout.as_one_row ? taps * cin : cin);
  return PackedInt8(w, scales.data, b.data, rows, columns, static_cast<int>(cout), x_scale, layout.taps_first);
}

float Info::scale(const char* name) const {
  const float value = attribute(name, 0.0f);
  if (!(value > 0.0f && value <= 3.4e38f)) fail(std::string(name) + ": expected a positive, finite scale, got " + std::to_string(value));
  return value;
}

std::string Info::attribute(const char* name, const std::string& fallback) const {
  std::size_t size = 0;
  Status* status = api_.attribute_string(info_, name, nullptr, &size);
  if (status != nullptr) {
    api_.release_status(status);
    return fallback;
  }
  std::string text(size, '\0');
  check(api_, api_.attribute_string(info_, name, text.data(), &size), std::string("read the attribute ") + name);
  text.resize(size > 0 ? size - 1 : 0);
  return text;
}

std::int64_t Info::attribute(const char* name, std::int64_t fallback) const {
  std::int64_t value = 0;
  Status* status = api_.attribute_int(info_, name, &value);
  if (status == nullptr) return value;
  api_.release_status(status);
  return fallback;
}

float Info::attribute(const char* name, float fallback) const {
  float value = 0;
  Status* status = api_.attribute_float(info_, name, &value);
  if (status == nullptr) return value;
  api_.release_status(status);
  return fallback;
}

Activation Info::activation() const {
  const std::string name = attribute("activation", std::string("none"));
  if (name == "none") return Activation::kNone;
  if (name == "gelu") return Activation::kGelu;
  if (name == "elu") return Activation::kElu;
  if (name == "relu") return Activation::kRelu;
  fail("activation: expected none, gelu, elu or relu, got " + name);
}

void Context::fail(const std::string& message) const { throw std::invalid_argument(std::string("zerograsp::") + node_ + ": " + message); }

const void* Context::raw_input(std::size_t index, std::vector<std::int64_t>& shape) const {
  std::size_t count = 0;
  check(api_, api_.input_count(context_, &count), "count the inputs");
  if (index >= count) return nullptr;
  const Value* value = nullptr;
  check(api_, api_.input(context_, index, &value), "read an input");
  if (value == nullptr) return nullptr;
  shape = shape_of(api_, value);
  void* data = nullptr;
  check(api_, api_.tensor_data(value, &data), "read an input");
  return data;
}

void* Context::raw_output(std::size_t index, std::initializer_list<std::int64_t> shape) const {
  Value* value = nullptr;
  check(api_, api_.output(context_, index, shape.begin(), shape.size(), &value), "allocate an output");
  void* data = nullptr;
  check(api_, api_.tensor_data(value, &data), "allocate an output");
  return data;
}

void Context::run(void* pool, std::size_t count, Parallel::Task task, void* context) {
  struct Shared {
    Parallel::Task task;
    void* context;
    std::size_t count;
    std::atomic<std::size_t> next{0};
  } shared{task, context, count};
  const Context& self = *static_cast<Context*>(pool);
  // ONNX Runtime cuts the range into one piece per thread. The first call of each piece works until nothing is left.
  constexpr std::size_t kMostThreads = 64;
  Status* status = self.api_.parallel_for(
      self.context_,
      [](void* user, std::size_t) {
        Shared& s = *static_cast<Shared*>(user);
        for (std::size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.count;) s.task(s.context, i);
      },
      kMostThreads, 0, &shared);
  check(self.api_, status, "run in parallel");
}

}  // namespace zerograsp::ort
