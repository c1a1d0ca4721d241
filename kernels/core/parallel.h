// How a kernel spreads its work over threads, independent of who owns the threads: OpenMP for the Python face, ONNX
// Runtime's own pool inside a graph (two pools on the same cores would fight each other).
#pragma once
#include <cstddef>
#include <type_traits>

namespace zerograsp {

struct Parallel {
  using Task = void (*)(void* context, std::size_t index);
  // Calls task(context, i) once for every i in [0, count), in any order, and returns when all are done.
  void (*run)(void* pool, std::size_t count, Task task, void* context);
  void* pool;
  int threads;
};

// OpenMP's threads; `threads` <= 0 takes all that OpenMP would use.
Parallel openmp(int threads);

template <class F>
void parallel_for(const Parallel& parallel, std::size_t count, F&& body) {
  if (count == 0) return;
  if (count == 1) {
    body(std::size_t{0});
    return;
  }
  using Body = std::remove_reference_t<F>;
  parallel.run(
      parallel.pool, count, [](void* context, std::size_t i) { (*static_cast<Body*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace zerograsp
