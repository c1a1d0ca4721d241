// The table of kernels that each instruction set provides.
#pragma once
#include "core/convolution.h"
#include "core/half.h"

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
  void (*widen)(const Half* from, float* to, std::int64_t count, const Parallel& parallel);
  void (*narrow)(const float* from, Half* to, std::int64_t count, const Parallel& parallel);
};

const ConvolutionKernels& convolution_kernels_baseline();
#ifdef ZG_HAVE_ISA_avx2
const ConvolutionKernels& convolution_kernels_avx2();
#endif

}  // namespace zerograsp
