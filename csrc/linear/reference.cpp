// The specification: the same computation in stock PyTorch calls.
#include "linear/reference.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include "linear/options.h"

namespace fastvision {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor linear_reference(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        std::string_view activation) {
  const bool relu = linear_activation(activation) == Activation::relu;
  const Tensor result = at::linear(input, weight, bias);
  return relu ? at::relu(result) : result;
}

std::tuple<Tensor, Tensor, Tensor> linear_backward_reference(const Tensor& grad_output, const Tensor& input,
                                                             const Tensor& weight, const OptionalTensor& output,
                                                             std::array<bool, 3> output_mask) {
  const Tensor grad = output ? at::threshold_backward(grad_output, *output, 0) : grad_output;
  const Tensor rows = grad.reshape_symint({-1, weight.sym_size(0)});
  const Tensor unwanted = at::empty({0}, input.options());
  Tensor grad_input = unwanted, grad_weight = unwanted, grad_bias = unwanted;
  if (output_mask[0]) grad_input = at::mm(rows, weight).reshape_symint(input.sym_sizes());
  if (output_mask[1]) grad_weight = at::mm(rows.t(), input.reshape_symint({-1, weight.sym_size(1)}));
  if (output_mask[2]) grad_bias = rows.sum(0);
  return {grad_input, grad_weight, grad_bias};
}

Tensor linear_quantized_reference(const Tensor& input, const Tensor& weight, const OptionalTensor& scale,
                                  const OptionalTensor& bias, std::string_view activation) {
  check_quantized(input, weight, scale);
  Tensor decoded = weight.to(scale ? at::kFloat : input.scalar_type());
  if (scale) decoded = at::mul(decoded, scale->unsqueeze(1)).to(input.scalar_type());
  return linear_reference(input, decoded, bias, activation);
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("linear_reference", &linear_reference);
  m.impl("linear_quantized_reference", &linear_quantized_reference);
}

}  // namespace fastvision
