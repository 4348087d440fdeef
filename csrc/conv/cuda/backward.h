// Host side of the gradients, for conv.cu.
#pragma once

#include "conv/kernels.h"

namespace fastvision::conv_cuda {

template <class Math>
const char* backward(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context);

// The gradient of the convolution's output, dense (batch, conv_h, conv_w, padded_channels).
template <class Element>
const char* unpool_gradient(const ConvPool2d& p, const void* grad_output, const uint8_t* selection, void* grad_conv,
                            int64_t padded_channels, Context& context);

}  // namespace fastvision::conv_cuda
