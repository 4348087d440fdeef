// Gradients, autocast and vmap.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "linear/op.h"
#include "linear/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::variable_list;

Tensor call_forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                    std::string_view activation) {
  static const auto op = find_operator<decltype(call_forward)>("fastvision::linear");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, weight, bias, activation);
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& input, const Tensor& weight,
                        const OptionalTensor& bias, std::string_view activation) {
    const Tensor output = call_forward(input, weight, bias, activation);
    context->save_for_backward({input, weight, activation == "relu" ? output : Tensor()});
    context->saved_data["has_bias"] = bias.has_value();
    return output;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    if (!gradients[0].defined()) return variable_list(4);
    const auto saved = context->get_saved_variables();
    const OptionalTensor output = optional(saved[2]);
    const std::array<bool, 3> mask{context->needs_input_grad(0), context->needs_input_grad(1),
                                   context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)};
    static const auto op = find_operator<decltype(linear_backward_reference)>("fastvision::linear_backward");
    // Twice differentiable are stock's calls.
    const auto [input, weight, bias] = at::GradMode::is_enabled()
                                           ? linear_backward_reference(gradients[0], saved[0], saved[1], output, mask)
                                           : op.call(gradients[0], saved[0], saved[1], output, mask);
    return {mask[0] ? input : Tensor(), mask[1] ? weight : Tensor(), mask[2] ? bias : Tensor(), Tensor()};
  }
};

Tensor linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::string_view activation) {
  const Tensor b = bias.value_or(Tensor());
  if (inside_functional_transform() || any_of({&input, &weight, &b}, &has_forward_gradient)) {
    return linear_reference(input, weight, bias, activation);
  }
  if (!at::GradMode::is_enabled() || !any_of({&input, &weight, &b}, &requires_grad)) {
    return call_forward(input, weight, bias, activation);
  }
  // What traces a graph sees stock's operators.
  if (is_traced(input) || is_traced(weight) || !linear_backward_pays(input, weight, bias)) {
    return linear_reference(input, weight, bias, activation);
  }
  return LinearFunction::apply(input, weight, bias, activation);
}

Tensor linear_quantized(const Tensor& input, const Tensor& weight, const OptionalTensor& scale,
                        const OptionalTensor& bias, std::string_view activation) {
  const Tensor b = bias.value_or(Tensor());
  if (inside_functional_transform() || any_of({&input, &b}, &has_forward_gradient) ||
      (at::GradMode::is_enabled() && any_of({&input, &b}, &requires_grad))) {
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
