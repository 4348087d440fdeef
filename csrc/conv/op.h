#pragma once

#include "conv/options.h"

namespace fastvision {

// Whether the operator runs a kernel for these tensors, or else the reference. Training needs
// more: the selection has to fit its byte. Symbolic sizes (torch.compile) are not looked at.
bool conv2d_pool2d_has_kernel(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                              bool training);

}  // namespace fastvision
