#pragma once

#include "conv/options.h"

namespace fastvision {

// Differentiable to any order; any device, dtype and memory format that stock PyTorch has.
at::Tensor conv2d_pool2d_reference(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                                   const std::optional<at::Tensor>& bias);

}  // namespace fastvision
