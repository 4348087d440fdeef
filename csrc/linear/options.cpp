#include "linear/options.h"

#include <c10/core/ScalarType.h>

namespace fastvision {

Activation linear_activation(std::string_view name) {
  TORCH_CHECK(name == "none" || name == "relu", "fastvision::linear: activation: expected 'none' or 'relu', got '",
              name, "'");
  return name == "relu" ? Activation::relu : Activation::none;
}

void check_quantized(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& scale) {
  constexpr const char* kName = "fastvision::linear_quantized: ";
  TORCH_CHECK(input.is_floating_point(), kName, "input: expected a floating point dtype, got ", input.scalar_type());
  TORCH_CHECK(weight.dim() == 2, kName, "weight: expected shape (out_features, in_features), got ", weight.sym_sizes());
  TORCH_CHECK(weight.scalar_type() == at::kBFloat16 || weight.scalar_type() == at::kChar, kName,
              "weight: expected bfloat16 or int8, got ", weight.scalar_type());
  const bool wanted = weight.scalar_type() == at::kChar;
  TORCH_CHECK(scale.has_value() == wanted, kName, "scale: expected ",
              wanted ? "a factor for each row of int8 weights, got none" : "none with bfloat16 weights, got a tensor");
  if (!scale) return;
  TORCH_CHECK(scale->scalar_type() == at::kFloat && scale->dim() == 1 && scale->sym_size(0) == weight.sym_size(0),
              kName, "scale: expected float32 of shape (", weight.sym_size(0), "), got ", scale->scalar_type(),
              " of shape ", scale->sym_sizes());
}

}  // namespace fastvision
