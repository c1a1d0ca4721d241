// The table of int8 kernels that each instruction set provides.
#pragma once
#include "core/convolution_int8.h"

namespace zerograsp {

struct Int8Kernels {
  decltype(&octree_conv_int8) conv;
  decltype(&octree_downsample_int8) downsample;
  decltype(&octree_upsample_int8) upsample;
  decltype(&octree_residual_int8) residual;
};

const Int8Kernels& int8_kernels_baseline();
#ifdef ZG_HAVE_ISA_avx2
const Int8Kernels& int8_kernels_avx2();
#endif

}  // namespace zerograsp
