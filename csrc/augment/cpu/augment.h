#pragma once

#include "augment/kernels.h"

namespace fastvision {

// The augment kernels of this instruction set.
const AugmentKernels* augment_cpu_kernels();

}  // namespace fastvision
