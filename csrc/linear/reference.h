#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

namespace fastvision {

at::Tensor linear_reference(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            std::string_view activation);

// Of input, weight and bias; those not in the mask are empty tensors. `output` is the result where ReLU made it.
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_backward_reference(const at::Tensor& grad_output,
                                                                         const at::Tensor& input,
                                                                         const at::Tensor& weight,
                                                                         const std::optional<at::Tensor>& output,
                                                                         std::array<bool, 3> output_mask);

// The weights are decoded to the input's dtype first.
at::Tensor linear_quantized_reference(const at::Tensor& input, const at::Tensor& weight,
                                      const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& bias,
                                      std::string_view activation);

}  // namespace fastvision
