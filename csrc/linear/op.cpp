// The operators on CPU and CUDA tensors: check, describe the problem, allocate, call the kernel library.
#include <ATen/ops/mm.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include "core/direct.h"
#include "core/memory.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"
#include "linear/kernels.h"
#include "linear/op.h"
#include "linear/options.h"
#include "linear/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool has_dense_rows(const Tensor& matrix) {
  return matrix.stride(-1) == 1 || matrix.size(-1) == 1;
}

// Null where the reference runs, also for arguments that it refuses.
const LinearKernels* suitable_kernels(const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  if (input.scalar_type() != at::kFloat || input.dim() == 0 || weight.dim() != 2 || input.numel() == 0 ||
      weight.numel() == 0 || input.size(-1) != weight.size(1) || !has_dense_rows(weight) ||
      weight.device() != input.device()) {
    return nullptr;
  }
  if (bias && (bias->scalar_type() != at::kFloat || bias->dim() != 1 || bias->size(0) != weight.size(0) ||
               bias->device() != input.device())) {
    return nullptr;
  }
  return kernels_enabled() ? kernels_of(input.device(), &KernelLibrary::linear) : nullptr;
}

Linear problem(const Tensor& rows, const Tensor& weight, Activation activation) {
  Linear p;
  p.weight = weight.scalar_type() == at::kFloat      ? LinearWeight::f32
             : weight.scalar_type() == at::kBFloat16 ? LinearWeight::bf16
                                                     : LinearWeight::i8;
  p.activation = activation;
  p.in_features = weight.size(1);
  p.out_features = weight.size(0);
  p.rows = rows.numel() / p.in_features;
  p.input_stride = rows.stride(0);
  p.weight_stride = weight.stride(0);
  return p;
}

// A matrix of the tensor's rows, each dense.
Tensor as_rows(const Tensor& tensor, int64_t features) {
  const Tensor rows = tensor.dim() == 2 ? tensor : tensor.reshape({-1, features});
  return has_dense_rows(rows) ? rows : rows.contiguous();
}

Tensor run(const LinearKernels& kernels, const Tensor& input, const Tensor& weight, const OptionalTensor& scale,
           const OptionalTensor& bias, Activation activation) {
  const Tensor rows = as_rows(input, weight.size(1));
  c10::SmallVector<int64_t, 4> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = weight.size(0);
  Tensor result = empty_result(shape, input.options(), at::MemoryFormat::Contiguous);

  const Linear p = problem(rows, weight, activation);
  const Tensor factors = scale ? scale->contiguous() : Tensor(), offsets = bias ? bias->contiguous() : Tensor();
  TorchContext context(input.device());
  const char* error = kernels.forward(
      p,
      {rows.const_data_ptr<float>(), weight.const_data_ptr(), scale ? factors.const_data_ptr<float>() : nullptr,
       bias ? offsets.const_data_ptr<float>() : nullptr, result.mutable_data_ptr<float>()},
      context);
  TORCH_CHECK(!error, "fastvision::linear: ", error);
  return result;
}

Tensor linear(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, std::string_view activation) {
  const LinearKernels* kernels = weight.scalar_type() == at::kFloat ? suitable_kernels(input, weight, bias) : nullptr;
  if (!kernels || !kernels->is_faster(problem(input, weight, Activation::none))) {
    return linear_reference(input, weight, bias, activation);
  }
  return run(*kernels, input, weight, std::nullopt, bias, linear_activation(activation));
}

Tensor linear_quantized(const Tensor& input, const Tensor& weight, const OptionalTensor& scale,
                        const OptionalTensor& bias, std::string_view activation) {
  check_quantized(input, weight, scale);
  const LinearKernels* kernels = suitable_kernels(input, weight, bias);
  if (!kernels || (scale && scale->device() != input.device())) {
    return linear_quantized_reference(input, weight, scale, bias, activation);
  }
  return run(*kernels, input, weight, scale, bias, linear_activation(activation));
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                                   const OptionalTensor& output, std::array<bool, 3> output_mask) {
  const Tensor grad = output ? at::threshold_backward(grad_output, *output, 0) : grad_output;
  const LinearKernels* kernels = suitable_kernels(input, weight, std::nullopt);
  if (!kernels || weight.scalar_type() != at::kFloat || grad.scalar_type() != at::kFloat ||
      grad.device() != input.device() || grad.numel() != input.numel() / weight.size(1) * weight.size(0)) {
    return linear_backward_reference(grad, input, weight, std::nullopt, output_mask);
  }
  const Tensor grads = grad.reshape({-1, weight.size(0)}).contiguous(), rows = as_rows(input, weight.size(1));
  const Linear p = problem(rows, weight, Activation::none);
  const bool input_by_kernel = output_mask[0] && kernels->input_gradient_is_faster(p);
  const bool weight_by_kernel = output_mask[1] && kernels->weight_gradient_is_faster(p);
  // Stock's products, too, go to kept memory.
  const auto gradient = [&](bool wanted, bool by_kernel, at::IntArrayRef sizes, const Tensor& a, const Tensor& b) {
    if (!wanted) return at::empty({0}, input.options());
    Tensor result = empty_result(sizes, input.options(), at::MemoryFormat::Contiguous);
    if (!by_kernel) {
      Tensor matrix = result.view({-1, sizes.back()});
      at::mm_out(matrix, a, b);
    }
    return result;
  };
  Tensor grad_input = gradient(output_mask[0], input_by_kernel, input.sizes(), grads, weight);
  Tensor grad_weight = gradient(output_mask[1], weight_by_kernel, weight.sizes(), grads.t(), rows);
  const Tensor grad_bias = output_mask[2] ? grads.sum(0) : at::empty({0}, input.options());
  if (input_by_kernel || weight_by_kernel) {
    TorchContext context(input.device());
    const auto target = [](bool wanted, Tensor& tensor) { return wanted ? tensor.mutable_data_ptr<float>() : nullptr; };
    const char* error =
        kernels->backward(p,
                          {grads.const_data_ptr<float>(), rows.const_data_ptr<float>(), weight.const_data_ptr<float>(),
                           target(input_by_kernel, grad_input), target(weight_by_kernel, grad_weight)},
                          context);
    TORCH_CHECK(!error, "fastvision::linear_backward: ", error);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

bool linear_backward_pays(const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const LinearKernels* kernels = suitable_kernels(input, weight, bias);
  if (!kernels || weight.scalar_type() != at::kFloat) return false;
  const Linear p = problem(input, weight, Activation::none);
  // A gradient of a big weight takes longer to get memory for than to compute, for few rows: kept memory is there.
  constexpr int64_t kBigWeight = 1 << 18;
  return weight.numel() >= kBigWeight || kernels->is_faster(p) || kernels->input_gradient_is_faster(p) ||
         kernels->weight_gradient_is_faster(p);
}

const bool kHasDirectKernel = add_direct_kernel("fastvision::linear", [](at::ArrayRef<c10::IValue> options) {
  return DirectKernel([activation = options.at(0).toStringRef()](c10::Stack& stack) {
    set_results(stack, linear(stack[0].toTensor(), stack[1].toTensor(), stack[2].toOptional<Tensor>(), activation));
  });
});

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("linear", &linear);
  m.impl("linear_backward", &linear_backward);
  m.impl("linear_quantized", &linear_quantized);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("linear", &linear);
  m.impl("linear_backward", &linear_backward);
  m.impl("linear_quantized", &linear_quantized);
}

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("linear", &linear_reference);
  m.impl("linear_backward", &linear_backward_reference);
  m.impl("linear_quantized", &linear_quantized_reference);
}

}  // namespace fastvision
