#include "python/module.h"

namespace zerograsp {

void bind_octree(nb::module_&) {}

}  // namespace zerograsp
