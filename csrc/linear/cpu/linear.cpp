#include "linear/cpu/linear.h"

#include "linear/cpu/forward.h"

namespace fastvision {

const LinearKernels* linear_cpu_kernels() {
  static const LinearKernels kernels{&linear_forward};
  return &kernels;
}

}  // namespace fastvision
