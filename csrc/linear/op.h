#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fastvision {

// Whether a layer trains faster by linear_backward than by stock's gradients: there is a kernel for the forward or for
// a gradient, or a gradient big enough to be better off in kept memory.
bool linear_backward_pays(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace fastvision
