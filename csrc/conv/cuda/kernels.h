// The kernel table of the conv family for CUDA, for cuda_library.cu.
#pragma once

#include "conv/kernels.h"

namespace fastvision {

extern const ConvKernels cuda_conv_kernels;

}  // namespace fastvision
