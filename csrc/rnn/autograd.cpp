// Gradients. In C++, since a Python autograd.Function costs tens of microseconds a call.
#include <ATen/ops/gru_cell.h>
#include <ATen/ops/lstm_cell.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "rnn/cells.h"
#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::variable_list;

// The gradients as a differentiable function, by way of the reference.
variable_list differentiable_backward(const LayerTensors& layer, const variable_list& gradients,
                                      const variable_list& wanted) {
  const at::AutoGradMode grad_mode(true);
  const auto [output, hy, cy] = rnn_layer_reference(layer);
  variable_list outputs, incoming;
  for (const auto& [result, gradient] : {std::pair{output, gradients[0]}, {hy, gradients[1]}, {cy, gradients[2]}}) {
    if (!gradient.defined()) continue;
    outputs.push_back(result);
    incoming.push_back(gradient);
  }
  return torch::autograd::grad(outputs, wanted, incoming, /*retain_graph=*/true, /*create_graph=*/true,
                               /*allow_unused=*/true);
}

class RnnLayerFunction : public torch::autograd::Function<RnnLayerFunction> {
 public:
  // Absent tensors come last: they have no place among the edges that needs_input_grad counts.
  static variable_list forward(torch::autograd::AutogradContext* context, const Tensor& input, const Tensor& hx,
                               at::TensorList params, const OptionalTensor& cx, const OptionalTensor& batch_sizes,
                               const OptionalTensor& masks) {
    static const auto op = find_operator<std::tuple<Tensor, Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const OptionalTensor&, at::TensorList, const OptionalTensor&,
        const OptionalTensor&)>("fastvision::rnn_layer_with_reserve");
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [output, hy, cy, reserve] = op.call(input, hx, cx, params, batch_sizes, masks);
    variable_list saved{input,  hx,      cx.value_or(Tensor()),   batch_sizes.value_or(Tensor()),
                        output, reserve, masks.value_or(Tensor())};
    saved.insert(saved.end(), params.begin(), params.end());
    context->save_for_backward(std::move(saved));
    context->set_materialize_grads(false);
    if (!cx) context->mark_non_differentiable({cy});
    return {output, hy, cy};
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::TensorList params = at::TensorList(saved).slice(kParams);
    const LayerTensors layer(saved[0], saved[1], optional(saved[2]), params, optional(saved[3]), optional(saved[6]));
    const size_t count = params.size();
    // Results in the order of forward's arguments: input, hx, params, cx, batch_sizes, masks.
    variable_list results(count + 5);
    if (!layer.is_lstm()) gradients[2] = Tensor();
    if (!gradients[0].defined() && !gradients[1].defined() && !gradients[2].defined()) return results;
    const auto needed = [&](size_t i) { return (i < count + 2 || layer.is_lstm()) && context->needs_input_grad(i); };
    if (at::GradMode::is_enabled()) {
      const auto argument = [&](size_t i) { return i < 2 ? saved[i] : i < count + 2 ? params[i - 2] : layer.cx; };
      variable_list wanted;
      for (size_t i = 0; i < count + 3; ++i) {
        if (needed(i)) wanted.push_back(argument(i));
      }
      const auto computed = differentiable_backward(layer, gradients, wanted);
      for (size_t i = 0, next = 0; i < count + 3; ++i) {
        if (needed(i)) results[i] = computed[next++];
      }
      return results;
    }
    bool params_needed = false;
    for (size_t i = 0; i < count; ++i) params_needed |= needed(2 + i);
    static const auto op = find_operator<std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>>(
        const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&,
        const OptionalTensor&, at::TensorList, const OptionalTensor&, const Tensor&, const Tensor&, std::array<bool, 4>,
        const OptionalTensor&)>("fastvision::rnn_layer_backward");
    const auto [grad_input, grad_hx, grad_cx, grad_params] =
        op.call(optional(gradients[0]), optional(gradients[1]), optional(gradients[2]), layer.input, layer.hx,
                optional(layer.cx), params, optional(layer.batch_sizes), saved[4], saved[5],
                {needed(0), needed(1), needed(count + 2), params_needed}, optional(layer.masks));
    if (needed(0)) results[0] = grad_input;
    if (needed(1)) results[1] = grad_hx;
    for (size_t i = 0; i < count; ++i) {
      if (needed(2 + i)) results[2 + i] = grad_params[i];
    }
    if (needed(count + 2)) results[count + 2] = grad_cx;
    return results;
  }

 private:
  static constexpr size_t kParams = 7;  // where they begin among the saved tensors
};

bool any(const LayerTensors& layer, bool (*predicate)(const Tensor&)) {
  return predicate(layer.input) || predicate(layer.hx) || predicate(layer.cx) ||
         std::any_of(layer.params.begin(), layer.params.end(), predicate);
}

LayerResult differentiable_layer(const LayerTensors& layer) {
  auto results = RnnLayerFunction::apply(layer.input, layer.hx, layer.params, optional(layer.cx),
                                         optional(layer.batch_sizes), optional(layer.masks));
  return {results[0], results[1], results[2]};
}

bool is_for_the_reference(const LayerTensors& layer) {
  return inside_functional_transform() || any(layer, &has_forward_gradient) || has_forward_gradient(layer.masks) ||
         requires_grad(layer.masks);
}

bool is_training(const LayerTensors& layer) {
  return at::GradMode::is_enabled() && any(layer, &requires_grad);
}

LayerResult rnn_layer_autograd(const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList params,
                               const OptionalTensor& batch_sizes, const OptionalTensor& masks) {
  const LayerTensors layer(input, hx, cx, params, batch_sizes, masks);
  if (is_for_the_reference(layer)) return rnn_layer_reference(layer);
  if (!is_training(layer)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_layer(layer);
  }
  check_layer(layer);
  return layer_has_kernel(layer, /*training=*/true) ? differentiable_layer(layer) : rnn_layer_reference(layer);
}

bool cell_is_differentiated(const CellTensors& cell) {
  return inside_functional_transform() || (at::GradMode::is_enabled() && cell.any(&requires_grad)) ||
         cell.any(&has_forward_gradient);
}

std::tuple<Tensor, Tensor> lstm_cell_autograd(const Tensor& input, const Tensor& hx, const Tensor& cx,
                                              const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                                              const OptionalTensor& b_hh) {
  const CellTensors cell(input, hx, cx, w_ih, w_hh, b_ih, b_hh);
  if (!cell_is_differentiated(cell)) {
    static const auto op =
        find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                 const Tensor&, const OptionalTensor&, const OptionalTensor&)>(
            "fastvision::lstm_cell");
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(input, hx, cx, w_ih, w_hh, b_ih, b_hh);
  }
  if (!cell.has_kernel(/*training=*/true) || is_for_the_reference(cell.layer())) {
    return at::lstm_cell(input, {hx, cx}, w_ih, w_hh, b_ih, b_hh);
  }
  const auto [output, hy, cy] = differentiable_layer(cell.layer());
  return {output.squeeze(0), cy.squeeze(0)};
}

Tensor gru_cell_autograd(const Tensor& input, const Tensor& hx, const Tensor& w_ih, const Tensor& w_hh,
                         const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
  const CellTensors cell(input, hx, std::nullopt, w_ih, w_hh, b_ih, b_hh);
  if (!cell_is_differentiated(cell)) {
    static const auto op = find_operator<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                const OptionalTensor&, const OptionalTensor&)>("fastvision::gru_cell");
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(input, hx, w_ih, w_hh, b_ih, b_hh);
  }
  if (!cell.has_kernel(/*training=*/true) || is_for_the_reference(cell.layer())) {
    return at::gru_cell(input, hx, w_ih, w_hh, b_ih, b_hh);
  }
  return std::get<0>(differentiable_layer(cell.layer())).squeeze(0);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("rnn_layer", &rnn_layer_autograd);
  m.impl("lstm_cell", &lstm_cell_autograd);
  m.impl("gru_cell", &gru_cell_autograd);
}

}  // namespace fastvision
