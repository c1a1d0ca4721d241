// The training kernels, compiled once per instruction set (ZG_ISA is its name).
#include "cpu/training_isa.h"

#include "cpu/convolution_gradient_isa.h"
#include "cpu/normalisation_isa.h"

namespace zerograsp {

#define ZG_CONCAT_(a, b) a##b
#define ZG_CONCAT(a, b) ZG_CONCAT_(a, b)

const TrainingKernels& ZG_CONCAT(training_kernels_, ZG_ISA)() {
  static const TrainingKernels kernels{&weight_gradient, &statistics, &forward, &backward};
  return kernels;
}

}  // namespace zerograsp
