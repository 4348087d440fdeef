#include "rnn/masks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <c10/core/ScalarType.h>

#include "rnn/rnn.h"

namespace fastvision {
namespace {

using at::Tensor;

// float64's layers, which no kernel runs, have masks of their own precision.
at::ScalarType masks_dtype(const LayerTensors& layer) {
  return c10::promoteTypes(at::kFloat, layer.input.scalar_type());
}

c10::SymInt rows_of(const LayerTensors& layer) {
  const Tensor& input = layer.input;
  return layer.is_packed() ? input.sym_size(0) : input.sym_size(0) * input.sym_size(1);
}

// The width of the gates, not of what a projection makes of them.
c10::SymInt hidden_size(const LayerTensors& layer) {
  return (layer.is_lstm() ? layer.cx : layer.hx).sym_size(-1);
}

c10::SymDimVector masks_sizes(const LayerTensors& layer) {
  return {layer.directions(), rows_of(layer), mask_blocks(layer.is_lstm() ? RnnMode::lstm : RnnMode::gru),
          hidden_size(layer)};
}

}  // namespace

Tensor layer_masks(const LayerTensors& layer, const Rates& rates, bool train) {
  const auto options = layer.input.options().dtype(masks_dtype(layer));
  const c10::SymDimVector sizes{layer.directions(), rows_of(layer), hidden_size(layer)};
  bool any_drawn = false;
  // 1 with probability p.
  const auto draw = [&](double p) {
    any_drawn = true;
    return at::bernoulli(at::empty_symint(sizes, options), p);
  };
  // The same for all, but with dense hidden units, which kernels want.
  const auto constant = [&](double value) { return at::full_symint({1, 1, sizes[2]}, value, options); };
  std::vector<Tensor> blocks;
  for (const double rate : rates.zoneout) {
    blocks.push_back(train && rate > 0 && rate < 1 ? draw(rate) : constant(rate));
  }
  const double kept = train ? 1 - rates.recurrent_dropout : 1;
  blocks.push_back(kept > 0 && kept < 1 ? draw(kept) / kept : constant(kept));
  if (any_drawn) {
    for (Tensor& block : blocks) block = block.expand_symint(sizes);
  }
  return at::stack(blocks, 0).permute({1, 2, 0, 3}).expand_symint(masks_sizes(layer));
}

void check_masks(const LayerTensors& layer) {
  if (!layer.masks.defined()) return;
  const Tensor& masks = layer.masks;
  const c10::SymDimVector sizes = masks_sizes(layer);
  TORCH_CHECK(masks.scalar_type() == masks_dtype(layer) && masks.device() == layer.input.device() &&
                  masks.sym_sizes().equals(sizes),
              "fastvision::rnn_layer: masks: expected ", masks_dtype(layer), " of shape ", c10::SymIntArrayRef(sizes),
              " (directions, rows, blocks, hidden_size) on ", layer.input.device(), ", got ", masks.scalar_type(),
              " of shape ", masks.sym_sizes(), " on ", masks.device());
}

}  // namespace fastvision
