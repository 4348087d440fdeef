#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fastvision {

// Whether a layer in training has kernels for its forward, or for any of these gradients.
bool linear_trains_by_kernel(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace fastvision
