#include "rnn/layer.h"

#include <c10/util/irange.h>

#include "core/integers.h"
#include "core/operator_handle.h"
#include "core/symbolic.h"
#include "core/torch_kernels.h"
#include "rnn/kernels.h"
#include "rnn/masks.h"

namespace fastvision {
namespace {

using at::Tensor;

template <class Int>
c10::ArrayRef<Int> sizes_of(const Tensor& tensor) {
  if constexpr (std::is_same_v<Int, int64_t>) {
    return tensor.sizes();
  } else {
    return tensor.sym_sizes();
  }
}

template <class Int>
bool has_shape(const Tensor& tensor, std::initializer_list<Int> shape) {
  return sizes_of<Int>(tensor).equals(c10::ArrayRef<Int>(shape));
}

// Do the sizes of tensors with the right numbers of dimensions fit each other?
template <class Int>
bool sizes_fit(const LayerTensors& layer) {
  const auto input = sizes_of<Int>(layer.input), hx = sizes_of<Int>(layer.hx);
  const Int &directions = hx[0], &hidden = hx[2], &columns = input.back();
  const Int width = hidden * layer.gates();
  const auto count = static_cast<int64_t>(layer.params.size());
  if ((directions != 1 && directions != 2) || (count != 2 * directions && count != 4 * directions)) return false;
  if (layer.is_lstm() && !sizes_of<Int>(layer.cx).equals(hx)) return false;
  if (!layer.is_packed() && input[1] != hx[1]) return false;
  const size_t step = layer.params_per_direction();
  for (size_t i = 0; i < layer.params.size(); i += step) {
    const Tensor* params = &layer.params[i];
    if (!has_shape<Int>(params[0], {width, columns}) || !has_shape<Int>(params[1], {width, hidden}) ||
        (step == 4 && !(has_shape<Int>(params[2], {width}) && has_shape<Int>(params[3], {width})))) {
      return false;
    }
  }
  return true;
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
  if (layer.is_lstm() && !is_like(layer.cx, input)) return false;
  bool has_symbols = is_symbolic(input) || is_symbolic(hx) || (layer.is_lstm() && is_symbolic(layer.cx));
  for (const Tensor& param : layer.params) {
    if (!is_like(param, input)) return false;
    has_symbols |= is_symbolic(param);
  }
  return has_symbols ? sizes_fit<c10::SymInt>(layer) : sizes_fit<int64_t>(layer);
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
