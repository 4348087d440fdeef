// The noise of a layer, zoneout and recurrent dropout, as an argument: which share of a state each element keeps, and
// what its candidate is multiplied by. With it the layer itself is deterministic.
#pragma once

#include "rnn/layer.h"

namespace fastvision {

struct Rates {
  at::ArrayRef<double> zoneout;  // of h and, in an LSTM, of c
  double recurrent_dropout;
};

// Draws the masks of a layer in training; in evaluation they are the expectations, without memory of their own.
at::Tensor layer_masks(const LayerTensors& layer, const Rates& rates, bool train);

// Raises unless the layer's masks, if it has any, are of the shape, dtype and device that the layer wants.
void check_masks(const LayerTensors& layer);

}  // namespace fastvision
