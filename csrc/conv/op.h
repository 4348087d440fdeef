#pragma once

#include <optional>

#include "conv/options.h"

namespace fastvision {

// The problem that the operator runs a kernel for; none where it runs the reference. Training needs
// more: the selection has to fit its byte. Symbolic sizes (torch.compile) are not looked at.
std::optional<ConvPool2d> conv2d_pool2d_for_kernel(const ConvPool2dOptions& options, const at::Tensor& input,
                                                   const at::Tensor& weight, bool training);

// Inference by the kernel, of a batch. `scale` as of ConvPool2dForward.
at::Tensor conv2d_pool2d_by_kernel(const ConvPool2d& problem, const at::Tensor& input, const at::Tensor& weight,
                                   const std::optional<at::Tensor>& bias, const at::Tensor& scale);

// Whether the library of this device reads a scale.
bool scales_weights(const at::Tensor& weight);

}  // namespace fastvision
