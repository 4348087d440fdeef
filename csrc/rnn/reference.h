#pragma once

#include "rnn/layer.h"

namespace fastvision {

// Arguments in the order of the operators lstm and gru.
LayerResult lstm_reference(const at::Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases,
                           int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first,
                           const std::optional<at::Tensor>& batch_sizes);
std::tuple<at::Tensor, at::Tensor> gru_reference(const at::Tensor& input, const at::Tensor& hx, at::TensorList params,
                                                 bool has_biases, int64_t num_layers, double dropout, bool train,
                                                 bool bidirectional, bool batch_first,
                                                 const std::optional<at::Tensor>& batch_sizes);

// One layer.
LayerResult rnn_layer_reference(const LayerTensors& layer);

}  // namespace fastvision
