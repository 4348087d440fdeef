// Shapes and dtypes of the results without computing them: what torch.compile, torch.export and meta tensors ask.
// Sizes may be symbolic.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "rnn/layer.h"
#include "rnn/rnn.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor dense_like(const Tensor& tensor) {
  return at::empty_like(tensor, at::MemoryFormat::Contiguous);
}

LayerResult rnn_layer(const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList params,
                      const OptionalTensor& batch_sizes, const OptionalTensor& masks) {
  const LayerTensors layer(input, hx, cx, params, batch_sizes, masks);
  check_layer(layer);
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  sizes.back() = hx.sym_size(0) * hx.sym_size(2);
  return {at::empty_symint(sizes, input.options()), dense_like(hx),
          layer.is_lstm() ? dense_like(*cx) : at::empty({0}, hx.options())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_layer_with_reserve(const Tensor& input, const Tensor& hx,
                                                                  const OptionalTensor& cx, at::TensorList params,
                                                                  const OptionalTensor& batch_sizes,
                                                                  const OptionalTensor& masks) {
  auto [output, hy, cy] = rnn_layer(input, hx, cx, params, batch_sizes, masks);
  const c10::SymInt rows = batch_sizes ? input.sym_size(0) : input.sym_size(0) * input.sym_size(1);
  const int64_t blocks = reserve_blocks(cx ? RnnMode::lstm : RnnMode::gru, masks.has_value());
  return {output, hy, cy,
          at::empty_symint({hx.sym_size(0), rows, blocks, hx.sym_size(2)}, hx.options().dtype(at::kFloat))};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> rnn_layer_backward(
    const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const Tensor& input, const Tensor& hx,
    const OptionalTensor& cx, at::TensorList params, const OptionalTensor&, const Tensor&, const Tensor&,
    std::array<bool, 4> mask, const OptionalTensor&) {
  const auto gradient = [&](bool wanted, const Tensor& tensor) {
    return wanted ? dense_like(tensor) : at::empty({0}, tensor.options());
  };
  std::vector<Tensor> grad_params;
  for (const Tensor& param : params) grad_params.push_back(gradient(mask[3], param));
  return {gradient(mask[0], input), gradient(mask[1], hx), cx ? gradient(mask[2], *cx) : at::empty({0}, hx.options()),
          grad_params};
}

std::tuple<Tensor, Tensor> lstm_cell(const Tensor&, const Tensor& hx, const Tensor& cx, const Tensor&, const Tensor&,
                                     const OptionalTensor&, const OptionalTensor&) {
  return {dense_like(hx), dense_like(cx)};
}

Tensor gru_cell(const Tensor&, const Tensor& hx, const Tensor&, const Tensor&, const OptionalTensor&,
                const OptionalTensor&) {
  return dense_like(hx);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("rnn_layer", &rnn_layer);
  m.impl("rnn_layer_with_reserve", &rnn_layer_with_reserve);
  m.impl("rnn_layer_backward", &rnn_layer_backward);
  m.impl("lstm_cell", &lstm_cell);
  m.impl("gru_cell", &gru_cell);
}

}  // namespace fastvision
