// The operators' arguments, checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include "core/types.h"

namespace fastvision {

Activation linear_activation(std::string_view name);

// Of weights in fewer bits.
void check_quantized(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& scale);

}  // namespace fastvision
