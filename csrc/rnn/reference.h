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

// One layer with masks: the steps one by one. It takes projections, too: params end with w_hr in each direction, and of
// k_h only the first elements count.
LayerResult masked_layer_reference(const LayerTensors& layer);

}  // namespace fastvision
