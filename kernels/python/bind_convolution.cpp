#include "python/module.h"

namespace zerograsp {

void bind_convolution(nb::module_&) {}

}  // namespace zerograsp
