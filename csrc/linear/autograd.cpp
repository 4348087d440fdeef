// Gradients, autocast and vmap. All of them are stock's: the kernels are for inference.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "linear/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool is_differentiated(const Tensor& tensor) {
  return (at::GradMode::is_enabled() && requires_grad(tensor)) || has_forward_gradient(tensor);
}

Tensor linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::string_view activation) {
  if (inside_functional_transform() || is_differentiated(input) || is_differentiated(weight) ||
      (bias && is_differentiated(*bias))) {
    return linear_reference(input, weight, bias, activation);
  }
  static const auto op = find_operator<decltype(linear)>("fastvision::linear");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, weight, bias, activation);
}

Tensor linear_quantized(const Tensor& input, const Tensor& weight, const OptionalTensor& scale,
                        const OptionalTensor& bias, std::string_view activation) {
  if (inside_functional_transform() || is_differentiated(input) || (bias && is_differentiated(*bias))) {
    return linear_quantized_reference(input, weight, scale, bias, activation);
  }
  static const auto op = find_operator<decltype(linear_quantized)>("fastvision::linear_quantized");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, weight, scale, bias, activation);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("linear", &linear);
  m.impl("linear_quantized", &linear_quantized);
}

// The stock calls cast what they are given.
TORCH_LIBRARY_IMPL(fastvision, AutocastCPU, m) {
  m.impl("linear", &linear_reference);
  m.impl("linear_quantized", &linear_quantized_reference);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCUDA, m) {
  m.impl("linear", &linear_reference);
  m.impl("linear_quantized", &linear_quantized_reference);
}

TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("linear", &linear_reference);
  m.impl("linear_quantized", &linear_quantized_reference);
}

}  // namespace fastvision
