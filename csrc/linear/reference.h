#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace fastvision {

at::Tensor linear_reference(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            std::string_view activation);

// The weights are decoded to the input's dtype first.
at::Tensor linear_quantized_reference(const at::Tensor& input, const at::Tensor& weight,
                                      const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& bias,
                                      std::string_view activation);

}  // namespace fastvision
