// The part of ONNX Runtime's C ABI that a custom-op library needs, declared here because the wheels carry no headers.
//
// OrtApi is a table of function pointers that only ever grows at its end; an entry's position is part of the ABI (ONNX
// Runtime asserts it in its own build). Positions below were read from onnxruntime_c_api.h (MIT licence); the newest of
// them, KernelContext_ParallelFor, came with API version 17, which is therefore the oldest runtime this library loads in.
#pragma once
#include <cstddef>
#include <cstdint>

namespace zerograsp::ort {

constexpr std::uint32_t kApiVersion = 17;

struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct ShapeInfo;

enum ElementType : int { kFloat = 1, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBool = 9, kFloat16 = 10 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };

struct Api {
  void* entries[275];

  template <class F>
  F* entry(int position) const {
    return reinterpret_cast<F*>(entries[position]);
  }
  Status* create_status(ErrorCode code, const char* message) const {
    return entry<Status*(ErrorCode, const char*)>(0)(code, message);
  }
  Status* create_domain(const char* name, CustomOpDomain** out) const {
    return entry<Status*(const char*, CustomOpDomain**)>(26)(name, out);
  }
  Status* domain_add(CustomOpDomain* domain, const struct CustomOp* op) const {
    return entry<Status*(CustomOpDomain*, const struct CustomOp*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, CustomOpDomain* domain) const {
    return entry<Status*(SessionOptions*, CustomOpDomain*)>(28)(options, domain);
  }
  Status* tensor_data(const Value* value, void** out) const {
    return entry<Status*(const Value*, void**)>(51)(value, out);
  }
  Status* dimension_count(const ShapeInfo* info, std::size_t* out) const {
    return entry<Status*(const ShapeInfo*, std::size_t*)>(61)(info, out);
  }
  Status* dimensions(const ShapeInfo* info, std::int64_t* out, std::size_t count) const {
    return entry<Status*(const ShapeInfo*, std::int64_t*, std::size_t)>(62)(info, out, count);
  }
  Status* type_and_shape(const Value* value, ShapeInfo** out) const {
    return entry<Status*(const Value*, ShapeInfo**)>(65)(value, out);
  }
  Status* attribute_float(const KernelInfo* info, const char* name, float* out) const {
    return entry<Status*(const KernelInfo*, const char*, float*)>(85)(info, name, out);
  }
  Status* attribute_int(const KernelInfo* info, const char* name, std::int64_t* out) const {
    return entry<Status*(const KernelInfo*, const char*, std::int64_t*)>(86)(info, name, out);
  }
  Status* attribute_string(const KernelInfo* info, const char* name, char* out, std::size_t* size) const {
    return entry<Status*(const KernelInfo*, const char*, char*, std::size_t*)>(87)(info, name, out, size);
  }
  Status* input_count(const KernelContext* context, std::size_t* out) const {
    return entry<Status*(const KernelContext*, std::size_t*)>(88)(context, out);
  }
  Status* input(const KernelContext* context, std::size_t index, const Value** out) const {
    return entry<Status*(const KernelContext*, std::size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(KernelContext* context, std::size_t index, const std::int64_t* shape, std::size_t rank, Value** out) const {
    return entry<Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**)>(91)(context, index, shape,
                                                                                                     rank, out);
  }
  void release_status(Status* status) const { entry<void(Status*)>(93)(status); }
  void release_shape(ShapeInfo* info) const { entry<void(ShapeInfo*)>(99)(info); }
  Status* info_input_count(const KernelInfo* info, std::size_t* out) const {
    return entry<Status*(const KernelInfo*, std::size_t*)>(230)(info, out);
  }
  Status* constant_input(const KernelInfo* info, std::size_t index, int* is_constant, const Value** out) const {
    return entry<Status*(const KernelInfo*, std::size_t, int*, const Value**)>(249)(info, index, is_constant, out);
  }
  Status* parallel_for(const KernelContext* context, void (*task)(void*, std::size_t), std::size_t total,
                       std::size_t batches, void* user) const {
    return entry<Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*)>(274)(
        context, task, total, batches, user);
  }
};

struct ApiBase {
  const Api* (*get_api)(std::uint32_t version);
  const char* (*version_string)();
};

// OrtCustomOp of API version 17, field by field.
struct CustomOp {
  std::uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, std::size_t);
  std::size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, std::size_t);
  std::size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, std::size_t);
  Characteristic (*output_characteristic)(const CustomOp*, std::size_t);
  int (*input_memory_type)(const CustomOp*, std::size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_output_shape)(const CustomOp*, void*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
};

}  // namespace zerograsp::ort
