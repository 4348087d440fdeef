#include "augment/cpu/augment.h"

#include "augment/cpu/resample.h"

namespace fastvision {

const AugmentKernels* augment_cpu_kernels() {
  static const AugmentKernels kernels{&affine_resample};
  return &kernels;
}

}  // namespace fastvision
