// Argument errors of the launchers: which argument, what was expected, what came.
#pragma once
#include <cstddef>

#include "cuda/api.h"
#include "cuda/platform.h"

namespace zerograsp {
namespace cuda {

// Remembers the text for zg_cuda_error() and returns cudaErrorInvalidValue.
__attribute__((format(printf, 1, 2))) int invalid(const char* format, ...);

// The value of an expression that yields an error code, unless it is 0: then execution goes on.
#define ZG_TRY(expression)                                   \
  do {                                                       \
    if (const int zg_error = (expression)) return zg_error;  \
  } while (false)

constexpr std::int64_t kMaxRows = (std::int64_t{1} << 31) - 1;  // indices in tables are int32

inline int expect_size(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return 0;
  return invalid("%s: expected %lld to %lld, got %lld", name, static_cast<long long>(low), static_cast<long long>(high),
                 static_cast<long long>(value));
}

// Pointers may be null only where nothing is read or written.
inline int expect_pointer(const char* name, const void* pointer, bool needed) {
  return pointer != nullptr || !needed ? 0 : invalid("%s: expected device memory, got null", name);
}

inline int expect_workspace(const void* workspace, std::size_t bytes, std::size_t needed) {
  ZG_TRY(expect_pointer("workspace", workspace, needed > 0));
  if (bytes < needed) return invalid("workspace: expected at least %zu bytes, got %zu", needed, bytes);
  return 0;
}

}  // namespace cuda
}  // namespace zerograsp
