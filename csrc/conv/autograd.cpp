// Gradients and autocast. In C++, since a Python autograd.Function costs tens of microseconds a call.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "conv/op.h"
#include "conv/operator.h"
#include "conv/reference.h"
#include "core/autograd.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::variable_list;

Tensor call_forward(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  static const Operator<Tensor, const Tensor&, const Tensor&, const OptionalTensor&> op("fastvision::conv2d_pool2d");
  return op(o, input, weight, bias);
}

std::tuple<Tensor, Tensor> call_with_selection(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                               const OptionalTensor& bias) {
  static const Operator<std::tuple<Tensor, Tensor>, const Tensor&, const Tensor&, const OptionalTensor&> op(
      "fastvision::conv2d_pool2d_with_selection");
  return op(o, input, weight, bias);
}

std::tuple<Tensor, Tensor, Tensor> call_backward(const ConvPool2dOptions& o, const Tensor& grad_output,
                                                 const Tensor& selection, const Tensor& input, const Tensor& weight,
                                                 std::array<bool, 3> mask) {
  static const Operator<std::tuple<Tensor, Tensor, Tensor>, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                        std::array<bool, 3>>
      op("fastvision::conv2d_pool2d_backward");
  return op(o, grad_output, selection, input, weight, mask);
}

// The gradients as a differentiable function, by way of the reference.
variable_list differentiable_backward(const ConvPool2dOptions& o, const Tensor& grad_output, const Tensor& input,
                                      const Tensor& weight, const Tensor& bias, std::array<bool, 3> mask) {
  const at::AutoGradMode grad_mode(true);
  const Tensor output = conv2d_pool2d_reference(o, input, weight, bias);
  variable_list wanted;
  for (const auto& [tensor, needed] : {std::pair{input, mask[0]}, {weight, mask[1]}, {bias, mask[2]}}) {
    if (needed) wanted.push_back(tensor);
  }
  auto computed = torch::autograd::grad({output}, wanted, {grad_output}, /*retain_graph=*/true, /*create_graph=*/true,
                                        /*allow_unused=*/true);
  variable_list gradients(3);
  for (size_t i = 0, next = 0; i < 3; ++i) {
    if (mask[i]) gradients[i] = computed[next++];
  }
  return gradients;
}

class ConvPool2dFunction : public torch::autograd::Function<ConvPool2dFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& input, const Tensor& weight,
                        const OptionalTensor& bias, const ConvPool2dOptions& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [output, selection] = call_with_selection(options, input, weight, bias);
    context->save_for_backward({input, weight, bias.value_or(Tensor()), selection});
    context->saved_data["options"] = options.pack();
    return output;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto options = ConvPool2dOptions::unpack(context->saved_data["options"].toIntVector());
    const Tensor &input = saved[0], &weight = saved[1], &bias = saved[2], &selection = saved[3];
    const std::array<bool, 3> mask{context->needs_input_grad(0), context->needs_input_grad(1),
                                   bias.defined() && context->needs_input_grad(2)};
    if (!gradients[0].defined()) return variable_list(4);
    if (at::GradMode::is_enabled()) {
      auto result = differentiable_backward(options, gradients[0], input, weight, bias, mask);
      result.emplace_back();
      return result;
    }
    const auto [grad_input, grad_weight, grad_bias] =
        call_backward(options, gradients[0], selection, input, weight, mask);
    return {mask[0] ? grad_input : Tensor(), mask[1] ? grad_weight : Tensor(), mask[2] ? grad_bias : Tensor(),
            Tensor()};
  }
};

Tensor conv2d_pool2d_autograd(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                              const OptionalTensor& bias) {
  const Tensor b = bias.value_or(Tensor());
  if (inside_functional_transform() || any_of({&input, &weight, &b}, &has_forward_gradient)) {
    return conv2d_pool2d_reference(o, input, weight, bias);
  }
  if (!at::GradMode::is_enabled() || !any_of({&input, &weight, &b}, &requires_grad)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(o, input, weight, bias);
  }
  check_tensors(o, input, weight, bias);
  if (!is_relu_or_none(o.activation)) {
    return activate_and_pool(o, conv2d_pool2d_autograd(o.without_epilogue(), input, weight, bias));
  }
  if (!conv2d_pool2d_for_kernel(o, input, weight, /*training=*/true)) {
    return conv2d_pool2d_reference(o, input, weight, bias);
  }
  if (input.dim() == 3) return without_batch(o, ConvPool2dFunction::apply(input.unsqueeze(0), weight, bias, o));
  return ConvPool2dFunction::apply(input, weight, bias, o);
}

template <c10::DeviceType device>
Tensor conv2d_pool2d_autocast(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                              const OptionalTensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(
      c10::DispatchKeySet(at::autocast::get_autocast_dispatch_key_from_device_type(device)));
  const auto cast = [](const auto& tensor) {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
  };
  return call_forward(o, cast(input), cast(weight), cast(bias));
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d_autograd>::call);
}

// vmap.
TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d_reference>::call);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCPU, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d_autocast<c10::DeviceType::CPU>>::call);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCUDA, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d_autocast<c10::DeviceType::CUDA>>::call);
}

}  // namespace fastvision
