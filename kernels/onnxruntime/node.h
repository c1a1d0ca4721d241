// What every node of the domain shares: reading inputs, constants and attributes with checked shapes, and the glue from
// a C++ class to ONNX Runtime's table of callbacks. Errors are exceptions inside and Status outside.
#pragma once
#include <atomic>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/convolution.h"
#include "core/convolution_int8.h"
#include "core/half.h"
#include "onnxruntime/abi.h"

namespace zerograsp::ort {

// A tensor as a pointer with its shape.
template <class T>
struct Tensor {
  T* data = nullptr;
  std::vector<std::int64_t> shape;

  explicit operator bool() const { return data != nullptr || !shape.empty(); }  // an empty tensor may have no data
  std::int64_t dim(std::size_t i) const { return shape.at(i); }
};

std::string shape_text(const std::vector<std::int64_t>& shape);

template <class T>
constexpr ElementType kElement = kFloat;
template <>
constexpr ElementType kElement<Half> = kFloat16;

// An initialiser in float32.
struct Constant {
  Constant() = default;
  Constant(Constant&&) = default;  // a moved vector keeps its buffer
  Constant& operator=(Constant&&) = default;

  const float* data = nullptr;
  std::vector<std::int64_t> shape;
  std::vector<float> widened;  // what `data` points at, if the graph has float16

  std::int64_t dim(std::size_t i) const { return shape.at(i); }
};

// The arguments of one node, while it is created.
class Info {
 public:
  Info(const Api& api, const KernelInfo* info, const char* node) : api_(api), info_(info), node_(node) {}

  std::size_t input_count() const;
  template <class T>
  Constant constant(std::size_t index, const char* name, std::size_t rank) const;
  // (taps, cin, cout) of T, any number of taps if `taps` is 0
  template <class T>
  Constant weight(std::size_t index, const char* name, int taps) const;
  Constant vector(std::size_t index, const char* name, std::int64_t cout) const;
  // A weight and its bias, which is the next input; without a bias if `bias_name` is null.
  template <class T>
  PackedWeight packed(std::size_t index, const char* name, int taps, const char* bias_name) const;
  // An int8 weight (cout, taps, cin), the scales of its outputs, which are the next input, and its bias, the one after that;
  // without a bias if `bias_name` is null. Any number of taps if `taps` is 0. With `as_one_row`, the taps of an output are one
  // row; with `taps_first`, the weight is (taps, cout, cin). x_scale: of the activations it meets.
  struct Int8Layout {
    int taps = 0;
    bool as_one_row = false, taps_first = false;
  };
  PackedInt8 packed_int8(std::size_t index, const char* name, const char* bias_name, float x_scale, Int8Layout layout) const;
  // A positive, finite attribute without a default.
  float scale(const char* name) const;
  std::string attribute(const char* name, const std::string& fallback) const;
  std::int64_t attribute(const char* name, std::int64_t fallback) const;
  float attribute(const char* name, float fallback) const;
  Activation activation() const;
  [[noreturn]] void fail(const std::string& message) const;

 private:
  const void* initialiser(std::size_t index, const char* name, std::size_t rank, std::vector<std::int64_t>& shape) const;

  const Api& api_;
  const KernelInfo* info_;
  const char* node_;
};

// The arguments of one node, while it runs.
class Context {
 public:
  Context(const Api& api, KernelContext* context, const char* node) : api_(api), context_(context), node_(node) {}

  template <class T>
  Tensor<const T> input(std::size_t index, const char* name, std::size_t rank) const {
    Tensor<const T> t = optional<T>(index);
    if (!t) fail(std::string("input ") + name + " is missing");
    if (t.shape.size() != rank)
      fail(std::string("input ") + name + ": expected rank " + std::to_string(rank) + ", got " + shape_text(t.shape));
    return t;
  }
  template <class T>
  Tensor<const T> optional(std::size_t index) const {
    Tensor<const T> t;
    t.data = static_cast<const T*>(raw_input(index, t.shape));
    return t;
  }
  template <class T>
  T* output(std::size_t index, std::initializer_list<std::int64_t> shape) const {
    return static_cast<T*>(raw_output(index, shape));
  }
  void expect(bool condition, const std::string& message) const {
    if (!condition) fail(message);
  }
  [[noreturn]] void fail(const std::string& message) const;

  // ONNX Runtime's own threads. Tasks are handed out one by one, since tiles differ in cost.
  Parallel parallel() { return {&Context::run, this, 0}; }

 private:
  static void run(void* pool, std::size_t count, Parallel::Task task, void* context);
  const void* raw_input(std::size_t index, std::vector<std::int64_t>& shape) const;
  void* raw_output(std::size_t index, std::initializer_list<std::int64_t> shape) const;

  const Api& api_;
  KernelContext* context_;
  const char* node_;
};

// Scratch memory shared by all nodes of all sessions: as many workspaces as nodes ever ran at once (a session may be run
// by several threads), each grown to the largest node it served.
template <class W>
class ScratchPool {
 public:
  class Lease {
   public:
    Lease() : workspace_(instance().take()) {}
    ~Lease() { instance().give_back(std::move(workspace_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    W& operator*() { return *workspace_; }

   private:
    std::unique_ptr<W> workspace_;
  };

 private:
  static ScratchPool& instance() {
    static ScratchPool pool;
    return pool;
  }
  std::unique_ptr<W> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<W>();
    std::unique_ptr<W> workspace = std::move(free_.back());
    free_.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<W> workspace) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(workspace));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<W>> free_;
};

class FloatBuffer {
 public:
  float* floats(std::size_t count) {
    if (values_.size() < count) values_.resize(count);
    return values_.data();
  }

 private:
  std::vector<float> values_;
};

// Features of element type T as the float32 that kernels compute with: in place, or widened into scratch memory.
template <class T>
class Features;

template <>
class Features<float> : public Tensor<const float> {
 public:
  Features(Context& c, std::size_t index, const char* name, std::size_t rank) : Tensor(c.input<float>(index, name, rank)) {}
  Features(Context& c, std::size_t index) : Tensor(c.optional<float>(index)) {}
};

template <>
class Features<Half> : public Tensor<const float> {
 public:
  Features(Context& c, std::size_t index, const char* name, std::size_t rank) { widen_from(c, c.input<Half>(index, name, rank)); }
  Features(Context& c, std::size_t index) { widen_from(c, c.optional<Half>(index)); }

 private:
  void widen_from(Context& c, Tensor<const Half> halves) {
    shape = std::move(halves.shape);
    if (halves.data == nullptr) return;
    std::int64_t count = 1;
    for (std::int64_t n : shape) count *= n;
    float* to = (*buffer_).floats(static_cast<std::size_t>(count) + 1);  // an empty tensor is there, too
    widen(halves.data, to, count, c.parallel());
    data = to;
  }

  ScratchPool<FloatBuffer>::Lease buffer_;
};

// What a node computes in float32, and stores as T.
template <class T>
class Result;

template <>
class Result<float> {
 public:
  Result(Context& c, std::initializer_list<std::int64_t> shape) : data(c.output<float>(0, shape)) {}
  void store(Context&) {}

  float* const data;
};

template <>
class Result<Half> {
 public:
  Result(Context& c, std::initializer_list<std::int64_t> shape) : count_(1), halves_(c.output<Half>(0, shape)) {
    for (std::int64_t n : shape) count_ *= n;
    data = (*buffer_).floats(static_cast<std::size_t>(count_));
  }
  void store(Context& c) { narrow(data, halves_, count_, c.parallel()); }

  float* data;

 private:
  ScratchPool<FloatBuffer>::Lease buffer_;
  std::int64_t count_;
  Half* halves_;
};

struct Signature {
  const char* name;
  std::vector<ElementType> inputs;
  std::size_t required;  // inputs from here on are optional
  std::vector<ElementType> outputs;
};

// Node must have `static const Signature& signature()`, a constructor from Info and `void compute(Context&)`.
template <class Node>
struct Registered : CustomOp {
  struct Kernel {
    const Api* api;
    Node node;
  };

  Registered() : CustomOp{} {
    version = kApiVersion;
    name = [](const CustomOp*) { return Node::signature().name; };
    execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
    CustomOp::input_type = [](const CustomOp*, std::size_t i) { return Node::signature().inputs[i]; };
    CustomOp::input_count = [](const CustomOp*) { return Node::signature().inputs.size(); };
    CustomOp::output_type = [](const CustomOp*, std::size_t i) { return Node::signature().outputs[i]; };
    CustomOp::output_count = [](const CustomOp*) { return Node::signature().outputs.size(); };
    input_characteristic = [](const CustomOp*, std::size_t i) {
      return i < Node::signature().required ? kRequired : kOptional;
    };
    output_characteristic = [](const CustomOp*, std::size_t) { return kRequired; };
    input_memory_type = [](const CustomOp*, std::size_t) { return 0; };
    variadic_input_min = variadic_output_min = [](const CustomOp*) { return 1; };
    variadic_input_homogeneous = variadic_output_homogeneous = [](const CustomOp*) { return 1; };
    start_version = [](const CustomOp*) { return 1; };
    end_version = [](const CustomOp*) { return 2147483647; };
    create_kernel_v2 = [](const CustomOp*, const Api* api, const KernelInfo* info, void** out) -> Status* {
      try {
        *out = new Kernel{api, Node(Info(*api, info, Node::signature().name))};
        return nullptr;
      } catch (const std::exception& error) {
        return api->create_status(kInvalidArgument, error.what());
      }
    };
    compute_v2 = [](void* kernel, KernelContext* context) -> Status* {
      Kernel& k = *static_cast<Kernel*>(kernel);
      try {
        Context c(*k.api, context, Node::signature().name);
        k.node.compute(c);
        return nullptr;
      } catch (const std::exception& error) {
        return k.api->create_status(kInvalidArgument, error.what());
      }
    };
    destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace zerograsp::ort
