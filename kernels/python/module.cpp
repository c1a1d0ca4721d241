// The Python face of the native core. Arguments arrive checked: the wrappers in zerograsp_edge.kernels name what is wrong.
#include "python/module.h"

NB_MODULE(_core, m) {
  zerograsp::bind_convolution(m);
  zerograsp::bind_octree(m);
  zerograsp::bind_occlusion(m);
}
