// Stacks of layers: torch.lstm and torch.gru over the operator of one layer. Being composite, they are taken apart by
// torch.compile, which sees whole layers and never a step.
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "core/direct.h"
#include "rnn/masks.h"
#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Stack {
  at::TensorList params;
  int64_t layers, directions, params_per_direction;
  double dropout;
  bool train;
  LayerResult (*call)(const LayerTensors&) = &call_layer;

  // The tensors of layer `i`, whose states are rows of all layers' hx and cx.
  LayerTensors layer(int64_t i, const Tensor& input, const Tensor& hx, const Tensor& cx,
                     const OptionalTensor& batch_sizes) const {
    const auto state = [&](const Tensor& all) { return layers == 1 ? all : all.narrow(0, i * directions, directions); };
    const int64_t count = directions * params_per_direction;
    return {input, state(hx), cx.defined() ? OptionalTensor(state(cx)) : std::nullopt, params.slice(i * count, count),
            batch_sizes};
  }
};

// Whether there are as many states, parameters and dimensions as the stack has layers for.
bool is_stack(const Stack& stack, const Tensor& input, const Tensor& hx, const Tensor& cx,
              const OptionalTensor& batch_sizes) {
  return stack.layers >= 1 && hx.dim() == 3 && input.dim() == (batch_sizes ? 2 : 3) &&
         (!cx.defined() || cx.dim() == 3) && hx.sym_size(0) == stack.layers * stack.directions &&
         (!cx.defined() || cx.sym_size(0) == hx.sym_size(0)) &&
         static_cast<int64_t>(stack.params.size()) == stack.layers * stack.directions * stack.params_per_direction &&
         stack.dropout >= 0 && stack.dropout <= 1;
}

// Whether every layer is one that rnn_layer takes. What is not, a projection, say, or a mistake, is stock's to judge.
bool is_plain(const Stack& stack, const Tensor& input, const Tensor& hx, const Tensor& cx,
              const OptionalTensor& batch_sizes) {
  if (!is_stack(stack, input, hx, cx, batch_sizes)) return false;
  const LayerTensors first = stack.layer(0, input, hx, cx, batch_sizes);
  if (!is_plain_layer(first) || !layer_has_kernel(first, /*training=*/false)) return false;
  if (stack.layers == 1) return true;
  // Only the shape of a deeper layer's input counts here, and that is the same for all of them.
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = stack.directions * hx.sym_size(2);
  const Tensor between = input.new_empty_symint({1}).expand_symint(sizes);
  for (const auto i : c10::irange(1, stack.layers)) {
    if (!is_plain_layer(stack.layer(i, between, hx, cx, batch_sizes))) return false;
  }
  return true;
}

LayerResult run(const Stack& stack, const Tensor& input, const Tensor& hx, const Tensor& cx, bool batch_first,
                const OptionalTensor& batch_sizes, const Rates* rates = nullptr) {
  Tensor rows = input;
  std::vector<Tensor> hidden, cell;
  for (const auto i : c10::irange(stack.layers)) {
    if (i > 0 && stack.train && stack.dropout > 0) rows = at::dropout(rows, stack.dropout, true);
    LayerTensors layer = stack.layer(i, rows, hx, cx, batch_sizes);
    if (rates) layer.masks = layer_masks(layer, *rates, stack.train);
    auto [output, hy, cy] = layer.is_projected() ? rnn_layer_reference(layer) : stack.call(layer);
    rows = output;
    hidden.push_back(hy);
    cell.push_back(cy);
  }
  const auto joined = [&](const std::vector<Tensor>& states) {
    return stack.layers == 1 ? states[0] : at::cat(states, 0);
  };
  return {batch_first ? rows.transpose(0, 1) : rows, joined(hidden), cx.defined() ? joined(cell) : cell[0]};
}

template <LayerResult (*Call)(const LayerTensors&)>
LayerResult lstm(const Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases, int64_t num_layers,
                 double dropout, bool train, bool bidirectional, bool batch_first, const OptionalTensor& batch_sizes) {
  const Stack stack{params, num_layers, bidirectional ? 2 : 1, has_biases ? 4 : 2, dropout, train, Call};
  const Tensor steps_first = batch_first && input.dim() == 3 ? input.transpose(0, 1) : input;
  if (hx.size() != 2 || !is_plain(stack, steps_first, hx[0], hx[1], batch_sizes)) {
    return lstm_reference(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
                          batch_sizes);
  }
  return run(stack, steps_first, hx[0], hx[1], batch_first, batch_sizes);
}

template <LayerResult (*Call)(const LayerTensors&)>
std::tuple<Tensor, Tensor> gru(const Tensor& input, const Tensor& hx, at::TensorList params, bool has_biases,
                               int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first,
                               const OptionalTensor& batch_sizes) {
  const Stack stack{params, num_layers, bidirectional ? 2 : 1, has_biases ? 4 : 2, dropout, train, Call};
  const Tensor steps_first = batch_first && input.dim() == 3 ? input.transpose(0, 1) : input;
  if (!is_plain(stack, steps_first, hx, Tensor(), batch_sizes)) {
    return gru_reference(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
                         batch_sizes);
  }
  const auto [output, hy, cy] = run(stack, steps_first, hx, Tensor(), batch_first, batch_sizes);
  return {output, hy};
}

// What the schemas list after the parameters.
struct SequenceOptions {
  bool has_biases;
  int64_t num_layers;
  double dropout;
  bool train, bidirectional, batch_first;
  OptionalTensor batch_sizes;

  explicit SequenceOptions(at::ArrayRef<c10::IValue> o)
      : has_biases(o.at(0).toBool()),
        num_layers(o.at(1).toInt()),
        dropout(o.at(2).toDouble()),
        train(o.at(3).toBool()),
        bidirectional(o.at(4).toBool()),
        batch_first(o.at(5).toBool()),
        batch_sizes(o.at(6).toOptional<Tensor>()) {}
};

DirectKernel direct_lstm(at::ArrayRef<c10::IValue> options) {
  return [o = SequenceOptions(options)](c10::Stack& stack) {
    set_results(stack, lstm<&compute_layer>(stack[0].toTensor(), stack[1].toTensorVector(), stack[2].toTensorVector(),
                                            o.has_biases, o.num_layers, o.dropout, o.train, o.bidirectional,
                                            o.batch_first, o.batch_sizes));
  };
}

DirectKernel direct_gru(at::ArrayRef<c10::IValue> options) {
  return [o = SequenceOptions(options)](c10::Stack& stack) {
    set_results(stack,
                gru<&compute_layer>(stack[0].toTensor(), stack[1].toTensor(), stack[2].toTensorVector(), o.has_biases,
                                    o.num_layers, o.dropout, o.train, o.bidirectional, o.batch_first, o.batch_sizes));
  };
}

const bool kHaveDirectKernels =
    add_direct_kernel("fastvision::lstm", &direct_lstm) && add_direct_kernel("fastvision::gru", &direct_gru);

LayerResult regularized_rnn(const Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases,
                            int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first,
                            const OptionalTensor& batch_sizes, at::ArrayRef<double> zoneout, double recurrent_dropout) {
  const auto is_rate = [](double value) { return value >= 0 && value <= 1; };
  TORCH_CHECK((hx.size() == 1 || hx.size() == 2) && zoneout.size() == hx.size(),
              "fastvision::regularized_rnn: hx, zoneout: expected h and c or only h, and a rate for each, got ",
              hx.size(), " states and ", zoneout.size(), " rates");
  TORCH_CHECK(std::all_of(zoneout.begin(), zoneout.end(), is_rate) && is_rate(recurrent_dropout),
              "fastvision::regularized_rnn: zoneout, recurrent_dropout: expected rates in [0, 1], got ", zoneout,
              " and ", recurrent_dropout);
  const Tensor cx = hx.size() == 2 ? hx[1] : Tensor();
  const bool is_projected = cx.defined() && hx[0].sym_size(-1) != cx.sym_size(-1);
  const Stack stack{params, num_layers, bidirectional ? 2 : 1, (has_biases ? 4 : 2) + is_projected, dropout, train};
  const Tensor steps_first = batch_first && input.dim() == 3 ? input.transpose(0, 1) : input;
  TORCH_CHECK(is_stack(stack, steps_first, hx[0], cx, batch_sizes),
              "fastvision::regularized_rnn: expected input (steps, batch, input_size), states (layers * directions, "
              "batch, hidden_size) and ",
              stack.params_per_direction, " params for each, got input ", input.sym_sizes(), ", h ", hx[0].sym_sizes(),
              " and ", params.size(), " params for ", num_layers, " layers");
  const Rates rates{zoneout, recurrent_dropout};
  return run(stack, steps_first, hx[0], cx, batch_first, batch_sizes, &rates);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("lstm", &lstm<&call_layer>);
  m.impl("gru", &gru<&call_layer>);
  m.impl("regularized_rnn", &regularized_rnn);
}

}  // namespace fastvision
