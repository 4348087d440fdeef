#pragma once

#include "linear/kernels.h"

namespace fastvision {

// The linear kernels of this instruction set.
const LinearKernels* linear_cpu_kernels();

}  // namespace fastvision
