#include "rnn/layer.h"

#include <c10/util/irange.h>

#include "core/integers.h"
#include "core/operator_handle.h"
#include "core/torch_kernels.h"
#include "rnn/kernels.h"
#include "rnn/masks.h"

namespace fastvision {
namespace {

using at::Tensor;

bool has_shape(const Tensor& tensor, std::initializer_list<c10::SymInt> shape) {
  return tensor.sym_sizes().equals(c10::SymIntArrayRef(shape));
}

}  // namespace

LayerResult call_layer(const LayerTensors& layer) {
  static const auto op =
      find_operator<LayerResult(const Tensor&, const Tensor&, const std::optional<Tensor>&, at::TensorList,
                                const std::optional<Tensor>&, const std::optional<Tensor>&)>("fastvision::rnn_layer");
  return op.call(layer.input, layer.hx, optional(layer.cx), layer.params, optional(layer.batch_sizes),
                 optional(layer.masks));
}

bool is_like(const Tensor& tensor, const Tensor& input) {
  return tensor.defined() && tensor.scalar_type() == input.scalar_type() && tensor.device() == input.device() &&
         tensor.layout() == at::kStrided;
}

bool is_batch_sizes(const Tensor& batch_sizes, const Tensor& input) {
  return (batch_sizes.is_cpu() || input.is_meta()) && batch_sizes.scalar_type() == at::kLong && batch_sizes.dim() == 1;
}

bool is_plain_layer(const LayerTensors& layer) {
  const Tensor &input = layer.input, &hx = layer.hx;
  if (!is_like(input, input) || !is_like(hx, input) || input.dim() != (layer.is_packed() ? 2 : 3) || hx.dim() != 3 ||
      (layer.is_packed() && !is_batch_sizes(layer.batch_sizes, input))) {
    return false;
  }
  const c10::SymInt directions = hx.sym_size(0), hidden = hx.sym_size(2), width = hidden * layer.gates();
  if ((directions != 1 && directions != 2) ||
      (layer.params.size() != 2 * directions && layer.params.size() != 4 * directions)) {
    return false;
  }
  if (layer.is_lstm() && !(is_like(layer.cx, input) && layer.cx.sym_sizes() == hx.sym_sizes())) return false;
  if (!layer.is_packed() && input.sym_size(1) != hx.sym_size(1)) return false;
  const size_t step = layer.params_per_direction();
  for (size_t i = 0; i < layer.params.size(); i += step) {
    for (size_t j = 0; j < step; ++j) {
      if (!is_like(layer.params[i + j], input)) return false;
    }
    if (!has_shape(layer.params[i], {width, input.sym_size(-1)}) || !has_shape(layer.params[i + 1], {width, hidden}) ||
        (step == 4 && !(has_shape(layer.params[i + 2], {width}) && has_shape(layer.params[i + 3], {width})))) {
      return false;
    }
  }
  return true;
}

void check_layer(const LayerTensors& layer) {
  TORCH_CHECK(is_plain_layer(layer),
              "fastvision::rnn_layer: expected input (steps, batch, input_size), hx and cx (directions, batch, "
              "hidden_size) and params of matching shapes, all of one dtype on one device, got input ",
              layer.input.sym_sizes(), ", hx ", layer.hx.sym_sizes(), " and ", layer.params.size(), " params");
  check_masks(layer);
}

void check_batch_sizes(const LayerTensors& layer) {
  if (!layer.is_packed()) return;
  const Tensor sizes = layer.batch_sizes.contiguous();
  const int64_t* data = sizes.const_data_ptr<int64_t>();
  int64_t sum = 0;
  for (const auto t : c10::irange(sizes.numel())) {
    const int64_t previous = t ? data[t - 1] : layer.hx.size(1);
    TORCH_CHECK(data[t] >= 1 && data[t] <= previous && (t || data[t] == previous),
                "fastvision::rnn_layer: batch_sizes: expected sizes of at least 1 that begin with hx's batch, ",
                previous, ", and never grow, got ", data[t], " at step ", t);
    sum += data[t];
  }
  TORCH_CHECK(sum == layer.input.size(0), "fastvision::rnn_layer: batch_sizes: expected a sum of ", layer.input.size(0),
              ", the rows of input, got ", sum);
}

bool layer_has_kernel(const LayerTensors& layer, bool training) {
  const auto dtype = kernel_dtype(layer.input.scalar_type());
  const RnnKernels* kernels = kernels_of(layer.input.device(), &KernelLibrary::rnn);
  if (!kernels_enabled() || !kernels || !dtype || (layer.masks.defined() && !kernels->takes_masks)) return false;
  const auto is_symbolic = [](const Tensor& tensor) {
    return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
  };
  RnnLayer problem;
  problem.mode = layer.is_lstm() ? RnnMode::lstm : RnnMode::gru;
  problem.dtype = *dtype;
  problem.storage = layer.storage();
  problem.has_masks = layer.masks.defined();
  problem.is_packed = layer.is_packed();
  if (problem.storage != RnnStorage::same && !kernels->decodes_weights) return false;
  problem.directions = layer.hx.sym_size(0).expect_int();
  // A cell is one step, whatever else is unknown: compiled and eager training must choose alike.
  if (!layer.is_packed()) problem.steps = layer.input.sym_size(0).maybe_as_int().value_or(0);
  const auto& w_ih = layer.params[0];
  if (!is_symbolic(w_ih) && !is_symbolic(layer.params[1]) && !is_symbolic(layer.input) && !is_symbolic(layer.hx)) {
    if (layer.input.numel() == 0 || layer.hx.numel() == 0) return false;
    problem.input_size = w_ih.size(1);
    problem.hidden_size = layer.hx.size(2);
    problem.batch = layer.hx.size(1);
    problem.rows = layer.is_packed() ? layer.input.size(0) : layer.input.size(0) * problem.batch;
    // Of packed sequences only the mean counts: their number of steps may not be known.
    problem.steps = ceil_div(problem.rows, problem.batch);
  }
  return kernels->supports(problem, training);
}

}  // namespace fastvision
