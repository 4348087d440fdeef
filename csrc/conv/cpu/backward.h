#pragma once

#include "conv/kernels.h"

namespace fastvision {

ConvGradients direct_supported_gradients(const ConvPool2d& problem);
const char* direct_backward(const ConvPool2d& problem, const ConvPool2dBackward& tensors, Context& context);
const char* direct_unpool(const ConvPool2d& problem, const void* grad_output, const uint8_t* selection, void* grad_conv,
                          Context& context);

}  // namespace fastvision
