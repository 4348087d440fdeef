// The family's reference: the same computation in stock PyTorch calls. It is the specification, the oracle of the
// tests, the baseline of the benchmarks, the fallback for what the kernels can't do, and the way to second derivatives.
#include "rnn/reference.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/lstm.h>
#include <torch/library.h>

namespace fastvision {

using at::Tensor;

LayerResult lstm_reference(const Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases,
                           int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first,
                           const std::optional<Tensor>& batch_sizes) {
  if (batch_sizes && batch_sizes->defined()) {
    return at::lstm(input, *batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional);
  }
  return at::lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first);
}

std::tuple<Tensor, Tensor> gru_reference(const Tensor& input, const Tensor& hx, at::TensorList params, bool has_biases,
                                         int64_t num_layers, double dropout, bool train, bool bidirectional,
                                         bool batch_first, const std::optional<Tensor>& batch_sizes) {
  if (batch_sizes && batch_sizes->defined()) {
    return at::gru(input, *batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional);
  }
  return at::gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first);
}

LayerResult rnn_layer_reference(const LayerTensors& layer) {
  if (layer.masks.defined()) return masked_layer_reference(layer);
  const bool bidirectional = layer.directions() == 2;
  const auto batch_sizes = optional(layer.batch_sizes);
  if (layer.is_lstm()) {
    return lstm_reference(layer.input, {layer.hx, layer.cx}, layer.params, layer.has_biases(), /*num_layers=*/1,
                          /*dropout=*/0, /*train=*/false, bidirectional, /*batch_first=*/false, batch_sizes);
  }
  const auto [output, hy] =
      gru_reference(layer.input, layer.hx, layer.params, layer.has_biases(), /*num_layers=*/1,
                    /*dropout=*/0, /*train=*/false, bidirectional, /*batch_first=*/false, batch_sizes);
  return {output, hy, at::empty({0}, hy.options())};
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("lstm_reference", &lstm_reference);
  m.impl("gru_reference", &gru_reference);
}

}  // namespace fastvision
