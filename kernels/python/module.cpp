// The Python face of the native core. Arguments arrive checked: the wrappers in zerograsp_edge.kernels name what is wrong.
#include "python/module.h"

NB_MODULE(_core, m) {
  nanobind::set_leak_warnings(false);  // packed weights that a module or a test keeps until exit are no leak
  zerograsp::bind_convolution(m);
  zerograsp::bind_convolution_int8(m);
  zerograsp::bind_grasp(m);
  zerograsp::bind_octree(m);
  zerograsp::bind_occlusion(m);
  zerograsp::bind_segmentation(m);
  zerograsp::bind_training(m);
}
