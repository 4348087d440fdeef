// Gradients and vmap.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "pool/op.h"
#include "pool/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using torch::autograd::variable_list;

template <class Result>
using Signature = Result(const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool);

template <class Result>
Result call(const c10::TypedOperatorHandle<Signature<Result>>& op, const Tensor& input, const MaxPoolOptions& o) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, o.kernel_size, o.stride, o.padding, o.dilation, o.ceil_mode);
}

Tensor call_forward(const Tensor& input, const MaxPoolOptions& options) {
  static const auto op = find_operator<Signature<Tensor>>("fastvision::max_pool2d");
  return call(op, input, options);
}

std::tuple<Tensor, Tensor> call_with_indices(const Tensor& input, const MaxPoolOptions& options) {
  static const auto op = find_operator<Signature<std::tuple<Tensor, Tensor>>>("fastvision::max_pool2d_with_indices");
  return call(op, input, options);
}

class MaxPoolFunction : public torch::autograd::Function<MaxPoolFunction> {
 public:
  static variable_list forward(torch::autograd::AutogradContext* context, const Tensor& input,
                               const MaxPoolOptions& options) {
    const auto [output, indices] = call_with_indices(input, options);
    context->save_for_backward({input, indices});
    context->saved_data["kernel_size"] = options.kernel_size;
    context->saved_data["stride"] = options.stride;
    context->saved_data["padding"] = options.padding;
    context->saved_data["ceil_mode"] = options.ceil_mode;
    return {output, indices};
  }

  // By stock's operator, which is differentiable itself.
  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    if (!gradients[0].defined()) return variable_list(2);
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    constexpr std::array<int64_t, 2> kNoDilation{1, 1};
    const Tensor grad_input = at::max_pool2d_with_indices_backward(
        gradients[0], saved[0], data["kernel_size"].toIntVector(), data["stride"].toIntVector(),
        data["padding"].toIntVector(), kNoDilation, data["ceil_mode"].toBool(), saved[1]);
    return {grad_input, Tensor()};
  }
};

// What each of the operators does, given how it is done without gradients, with them, and by stock.
template <class Result, class Train>
Result differentiable(const Tensor& input, const MaxPoolOptions& options,
                      Result (*forward)(const Tensor&, const MaxPoolOptions&),
                      Result (*reference)(const Tensor&, const MaxPoolOptions&), const Train& train) {
  if (inside_functional_transform() || has_forward_gradient(input)) return reference(input, options);
  if (!at::GradMode::is_enabled() || !requires_grad(input)) return forward(input, options);
  // What traces a graph sees stock's operators.
  if (is_traced(input) || !max_pool2d_trains_by_kernel(input, options)) return reference(input, options);
  return train(MaxPoolFunction::apply(input, options));
}

Tensor max_pool2d(const Tensor& input, const MaxPoolOptions& options) {
  return differentiable(input, options, &call_forward, &max_pool2d_reference,
                        [](const variable_list& results) { return results[0]; });
}

std::tuple<Tensor, Tensor> max_pool2d_with_indices(const Tensor& input, const MaxPoolOptions& options) {
  return differentiable(input, options, &call_with_indices, &max_pool2d_with_indices_reference,
                        [](const variable_list& results) { return std::tuple(results[0], results[1]); });
}

// In training stock's.
Tensor avg_pool2d(const Tensor& input, const AvgPoolOptions& o) {
  const bool is_plain = !inside_functional_transform() && !has_forward_gradient(input);
  if (!is_plain || (at::GradMode::is_enabled() && requires_grad(input))) return avg_pool2d_reference(input, o);
  static const auto op = find_operator<Tensor(const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool,
                                              bool, std::optional<int64_t>)>("fastvision::avg_pool2d");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, o.kernel_size, o.stride, o.padding, o.ceil_mode, o.count_include_pad, o.divisor_override);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("max_pool2d", &from_flat_options<&max_pool2d>);
  m.impl("max_pool2d_with_indices", &from_flat_options<&max_pool2d_with_indices>);
  m.impl("avg_pool2d", &from_flat_avg_options<&avg_pool2d>);
}

TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("max_pool2d", &from_flat_options<&max_pool2d_reference>);
  m.impl("max_pool2d_with_indices", &from_flat_options<&max_pool2d_with_indices_reference>);
  m.impl("avg_pool2d", &from_flat_avg_options<&avg_pool2d_reference>);
}

}  // namespace fastvision
