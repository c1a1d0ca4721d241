// The table of kernels that each instruction set provides.
#pragma once
#include "core/convolution.h"

namespace zerograsp {

struct ConvolutionKernels {
  const char* name;
  decltype(&octree_conv) conv;
  decltype(&octree_downsample) downsample;
  decltype(&octree_upsample) upsample;
  decltype(&octree_residual) residual;
  decltype(&octree_linear) linear;
  decltype(&octree_mlp) mlp;
  decltype(&grid_conv) grid;
};

const ConvolutionKernels& convolution_kernels_baseline();
#ifdef ZG_HAVE_ISA_avx2
const ConvolutionKernels& convolution_kernels_avx2();
#endif

}  // namespace zerograsp
