#pragma once

#include "conv/options.h"

namespace fastvision {

// Whether the operator runs a kernel for these tensors, or else the reference. Training needs
// more: the selection has to fit its byte. Symbolic sizes (torch.compile) are not looked at.
bool conv2d_pool2d_has_kernel(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                              bool training);

// Inference by the kernel that conv2d_pool2d_has_kernel found. `scale` as of ConvPool2dForward.
at::Tensor conv2d_pool2d_by_kernel(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                                   const at::Tensor& bias, const at::Tensor& scale);

// Whether the library of this device reads a scale.
bool scales_weights(const at::Tensor& weight);

}  // namespace fastvision
