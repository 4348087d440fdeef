#pragma once

#include "conv/kernels.h"

namespace fastvision {

// Gradients of weight and bias; either may be null.
void direct_grad_weight(const ConvPool2d& problem, const ConvPool2dBackward& tensors, Context& context);

}  // namespace fastvision
