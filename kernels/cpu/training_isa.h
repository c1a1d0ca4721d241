// The table of training kernels that each instruction set provides; the choice is that of the convolutions.
#pragma once
#include "core/training.h"

namespace zerograsp {

struct TrainingKernels {
  decltype(&conv_weight_gradient) weight_gradient;
  decltype(&batch_statistics) statistics;
  decltype(&normalise) forward;
  decltype(&normalise_gradient) backward;
};

const TrainingKernels& training_kernels_baseline();
#ifdef ZG_HAVE_ISA_avx2
const TrainingKernels& training_kernels_avx2();
#endif

}  // namespace zerograsp
