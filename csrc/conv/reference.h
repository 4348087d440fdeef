#pragma once

#include "conv/options.h"

namespace fastvision {

// Differentiable to any order; any device, dtype and memory format that stock PyTorch has.
at::Tensor conv2d_pool2d_reference(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                                   const std::optional<at::Tensor>& bias);

// The same for kernels, which autograd and transforms have left behind: activations overwrite the convolution's output,
// whose memory is at hand.
at::Tensor conv2d_pool2d_by_stock(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                                  const std::optional<at::Tensor>& bias);

// What follows the convolution.
at::Tensor activate_and_pool(const ConvPool2dOptions& options, const at::Tensor& convolved);

// The reference with batch_norm by given statistics after the convolution; gamma and beta are its weight and bias.
at::Tensor conv2d_batch_norm_pool2d_reference(const ConvPool2dOptions& options, const at::Tensor& input,
                                              const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                              const at::Tensor& mean, const at::Tensor& var,
                                              const std::optional<at::Tensor>& gamma,
                                              const std::optional<at::Tensor>& beta, double eps);

}  // namespace fastvision
