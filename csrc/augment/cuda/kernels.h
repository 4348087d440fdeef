// The augment kernels for CUDA, or, in the emulated library, the same executed on the CPU.
#pragma once

#include "augment/kernels.h"

namespace fastvision {

extern const AugmentKernels cuda_augment_kernels;

}  // namespace fastvision
