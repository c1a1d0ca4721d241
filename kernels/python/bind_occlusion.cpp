#include "python/module.h"

namespace zerograsp {

void bind_occlusion(nb::module_&) {}

}  // namespace zerograsp
