#pragma once

#include "conv/kernels.h"

namespace fastvision {

extern const ConvKernels cuda_conv_kernels;

}  // namespace fastvision
