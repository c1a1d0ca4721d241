#include "core/parallel.h"

#include <omp.h>

#include <cstdint>

namespace zerograsp {

Parallel openmp(int threads) {
  const int count = threads > 0 ? threads : omp_get_max_threads();
  return {[](void* pool, std::size_t n, Parallel::Task task, void* context) {
            const int workers = static_cast<int>(reinterpret_cast<std::intptr_t>(pool));
#pragma omp parallel for schedule(dynamic, 1) num_threads(workers)
            for (std::int64_t i = 0; i < static_cast<std::int64_t>(n); ++i) task(context, static_cast<std::size_t>(i));
          },
          reinterpret_cast<void*>(static_cast<std::intptr_t>(count)), count};
}

}  // namespace zerograsp
