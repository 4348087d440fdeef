// The operator rnn_layer_quantized: rnn_layer in inference, from weights that are stored in fewer bits than the input's
// dtype has, and decoded as they are read. A few rows wait for nothing but the weights.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class... Message>
void check(bool condition, const char* name, const Message&... message) {
  TORCH_CHECK(condition, "fastvision::rnn_layer_quantized: ", name, ": expected ", message...);
}

void check_like(const char* name, const Tensor& tensor, c10::SymIntArrayRef shape, at::ScalarType dtype,
                c10::Device device) {
  TORCH_CHECK(tensor.defined() && tensor.layout() == at::kStrided, "fastvision::rnn_layer_quantized: ", name,
              ": expected a dense tensor");
  check(tensor.sym_sizes().equals(shape) && tensor.scalar_type() == dtype && tensor.device() == device, name, "shape ",
        shape, " and dtype ", dtype, " on ", device, ", got ", tensor.sym_sizes(), " ", tensor.scalar_type(), " on ",
        tensor.device());
}

Tensor with_leading_one(const Tensor& tensor, bool wanted) {
  return wanted ? tensor.unsqueeze(0) : tensor;
}

// The arguments, checked; a cell as a layer of one step. What it makes of them shares its memory.
class QuantizedLayer {
 public:
  QuantizedLayer(const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList weights,
                 at::TensorList scales, at::TensorList biases, const OptionalTensor& batch_sizes)
      : is_cell_(input.dim() == 2 && hx.dim() == 2 && !batch_sizes),
        layer_(with_leading_one(input, is_cell_), with_leading_one(hx, is_cell_),
               cx ? OptionalTensor(with_leading_one(*cx, is_cell_)) : std::nullopt, {}, batch_sizes),
        scales_(scales) {
    check_states();
    check_params(weights, biases);
    const int64_t directions = layer_.directions();
    for (const auto d : c10::irange(directions)) {
      for (const at::TensorList list : {weights, biases}) {
        if (!list.empty()) params_.insert(params_.end(), {list[2 * d], list[2 * d + 1]});
      }
    }
  }

  // As the kernels take it.
  LayerTensors tensors() const {
    LayerTensors layer = layer_;
    layer.params = params_;
    layer.scales = scales_;
    return layer;
  }

  LayerResult by_kernel() const {
    LayerResult results = run_layer_kernel(tensors());
    if (!is_cell_) return results;
    // Fresh and dense tensors: they need no views, of which each takes a microsecond.
    const auto drop_leading_one = [](const Tensor& tensor) {
      const c10::DimVector sizes(tensor.sizes().begin() + 1, tensor.sizes().end());
      tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
    };
    drop_leading_one(std::get<0>(results));
    drop_leading_one(std::get<1>(results));
    if (layer_.is_lstm()) drop_leading_one(std::get<2>(results));
    return results;
  }

  LayerResult reference() const {
    std::vector<Tensor> params(params_.begin(), params_.end());
    const size_t step = params.size() / layer_.directions();
    for (size_t i = 0; i < params.size(); ++i) {
      if (i % step >= 2) continue;
      if (!scales_.empty()) params[i] = params[i].mul(scales_[i / step * 2 + i % step].unsqueeze(1));
      params[i] = params[i].to(layer_.input.scalar_type());
    }
    LayerTensors layer = layer_;
    layer.params = params;
    const LayerResult results = rnn_layer_reference(layer);
    if (!is_cell_) return results;
    const auto& [output, hy, cy] = results;
    return {output.squeeze(0), hy.squeeze(0), layer_.is_lstm() ? cy.squeeze(0) : cy};
  }

 private:
  void check_states() const {
    const Tensor &input = layer_.input, &hx = layer_.hx, &cx = layer_.cx;
    const int64_t dimensions = layer_.is_packed() ? 2 : 3;
    check(input.is_floating_point() && input.layout() == at::kStrided && input.dim() == dimensions, "input",
          "a dense floating point tensor of ", dimensions, " dimensions, got ", input.sym_sizes(), " ",
          input.scalar_type());
    check(is_like(hx, input) && hx.dim() == 3 && (hx.sym_size(0) == 1 || hx.sym_size(0) == 2), "hx",
          "shape (1 or 2 directions, batch, hidden_size) and dtype ", input.scalar_type(), " on ", input.device(),
          ", got ", hx.sym_sizes(), " ", hx.scalar_type(), " on ", hx.device());
    if (layer_.is_lstm()) check_like("cx", cx, hx.sym_sizes(), input.scalar_type(), input.device());
    if (layer_.is_packed()) {
      check(is_batch_sizes(layer_.batch_sizes, input), "batch_sizes", "int64 of 1 dimension on the CPU, got ",
            layer_.batch_sizes.scalar_type(), " of ", layer_.batch_sizes.dim(), " dimensions");
    } else {
      check(input.sym_size(1) == hx.sym_size(1), "input", "hx's batch, ", hx.sym_size(1), ", got ", input.sym_sizes());
    }
  }

  void check_params(at::TensorList weights, at::TensorList biases) const {
    const Tensor& input = layer_.input;
    const c10::Device device = input.device();
    const size_t count = 2 * layer_.directions();
    check(weights.size() == count, "weights", count, " tensors, w_ih and w_hh of each direction, got ", weights.size());
    const at::ScalarType dtype = weights[0].scalar_type();
    check(dtype == at::kChar || dtype == at::kBFloat16, "weights", "dtype int8 or bfloat16, got ", dtype);
    const size_t scale_count = dtype == at::kChar ? count : 0;
    check(scales_.size() == scale_count, "scales", scale_count, " tensors for weights of ", dtype, ", got ",
          scales_.size());
    check(biases.empty() || biases.size() == count, "biases", "none or ", count,
          " tensors, b_ih and b_hh of each direction, got ", biases.size());
    const c10::SymInt hidden = layer_.hx.sym_size(2), width = hidden * layer_.gates();
    for (const auto i : c10::irange(count)) {
      check_like("weights", weights[i], {width, i % 2 ? hidden : input.sym_size(-1)}, dtype, device);
      if (scale_count) check_like("scales", scales_[i], {width}, at::kFloat, device);
      if (!biases.empty()) check_like("biases", biases[i], {width}, input.scalar_type(), device);
    }
  }

  bool is_cell_;
  LayerTensors layer_;
  at::TensorList scales_;
  c10::SmallVector<Tensor, 8> params_;
};

LayerResult rnn_layer_quantized(const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList weights,
                                at::TensorList scales, at::TensorList biases, const OptionalTensor& batch_sizes) {
  const QuantizedLayer layer(input, hx, cx, weights, scales, biases, batch_sizes);
  const LayerTensors tensors = layer.tensors();
  check_batch_sizes(tensors);
  return layer_has_kernel(tensors, /*training=*/false) ? layer.by_kernel() : layer.reference();
}

LayerResult rnn_layer_quantized_meta(const Tensor& input, const Tensor& hx, const OptionalTensor& cx,
                                     at::TensorList weights, at::TensorList scales, at::TensorList biases,
                                     const OptionalTensor& batch_sizes) {
  QuantizedLayer(input, hx, cx, weights, scales, biases, batch_sizes);
  c10::SymDimVector sizes(input.sym_sizes().begin(), input.sym_sizes().end());
  const bool is_cell = hx.dim() == 2;
  sizes.back() = is_cell ? hx.sym_size(1) : hx.sym_size(0) * hx.sym_size(2);
  const auto dense_like = [](const Tensor& tensor) { return at::empty_like(tensor, at::MemoryFormat::Contiguous); };
  return {at::empty_symint(sizes, input.options()), dense_like(hx),
          cx ? dense_like(*cx) : at::empty({0}, hx.options())};
}

LayerResult rnn_layer_quantized_autograd(const Tensor& input, const Tensor& hx, const OptionalTensor& cx,
                                         at::TensorList weights, at::TensorList scales, at::TensorList biases,
                                         const OptionalTensor& batch_sizes) {
  const auto any = [&](bool (*predicate)(const Tensor&)) {
    const auto among = [&](at::TensorList tensors) { return std::any_of(tensors.begin(), tensors.end(), predicate); };
    return predicate(input) || predicate(hx) || (cx && predicate(*cx)) || among(scales) || among(biases);
  };
  if (inside_functional_transform() || any(&has_forward_gradient)) {  // the reference knows of derivatives
    return QuantizedLayer(input, hx, cx, weights, scales, biases, batch_sizes).reference();
  }
  TORCH_CHECK(
      !at::GradMode::is_enabled() || !any(&requires_grad),
      "fastvision::rnn_layer_quantized: has no gradient: expected torch.no_grad(), or input, hx, cx, scales and "
      "biases that require none");
  static const auto op = find_operator<decltype(rnn_layer_quantized)>("fastvision::rnn_layer_quantized");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(input, hx, cx, weights, scales, biases, batch_sizes);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("rnn_layer_quantized", &rnn_layer_quantized);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("rnn_layer_quantized", &rnn_layer_quantized);
}

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("rnn_layer_quantized", &rnn_layer_quantized_meta);
}

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("rnn_layer_quantized", &rnn_layer_quantized_autograd);
}

}  // namespace fastvision
