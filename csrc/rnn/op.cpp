// The operators on CPU and CUDA tensors: check, describe the problem, allocate, call the kernel library.
#include <ATen/ops/empty.h>
#include <ATen/ops/gru_cell.h>
#include <ATen/ops/lstm_cell.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "core/direct.h"
#include "core/memory.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"
#include "rnn/kernels.h"
#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_status(const char* error) {
  TORCH_CHECK(!error, "fastvision::rnn_layer: ", error);
}

Tensor with_dense_columns(const Tensor& input) {
  return input.size(-1) == 1 || input.stride(-1) == 1 ? input : input.contiguous();
}

// The problem, and the tensors behind its pointers, which must outlive the kernel.
class Layer {
 public:
  explicit Layer(const LayerTensors& t)
      : input_(t.is_packed() ? t.input.contiguous() : with_dense_columns(t.input)),
        hx_(t.hx.contiguous()),
        cx_(t.is_lstm() ? t.cx.contiguous() : Tensor()),
        batch_sizes_(t.is_packed() ? t.batch_sizes.contiguous() : Tensor()),
        masks_(t.masks.defined() ? with_dense_columns(t.masks) : Tensor()) {
    problem_.mode = t.is_lstm() ? RnnMode::lstm : RnnMode::gru;
    problem_.dtype = *kernel_dtype(input_.scalar_type());
    problem_.storage = t.storage();
    problem_.has_masks = t.masks.defined();
    problem_.directions = t.directions();
    problem_.batch = hx_.size(1);
    problem_.hidden_size = hx_.size(2);
    problem_.input_size = input_.size(-1);
    problem_.steps = t.is_packed() ? batch_sizes_.size(0) : input_.size(0);
    problem_.rows = t.is_packed() ? input_.size(0) : problem_.steps * problem_.batch;
    if (t.is_packed()) {
      problem_.batch_sizes = batch_sizes_.const_data_ptr<int64_t>();
      problem_.input_row_stride = problem_.input_size;
    } else {
      problem_.input_step_stride = input_.stride(0);
      problem_.input_row_stride = input_.stride(1);
    }
    for (const Tensor& param : t.params) params_.push_back(param.contiguous());
    for (const Tensor& scale : t.scales) scales_.push_back(scale.contiguous());
  }

  const RnnLayer& problem() const { return problem_; }
  const void* input() const { return input_.const_data_ptr(); }
  const void* hidden() const { return hx_.const_data_ptr(); }
  RnnMasks masks() const {
    if (!masks_.defined()) return {};
    return {masks_.const_data_ptr<float>(), masks_.stride(0), masks_.stride(1), masks_.stride(2)};
  }
  const void* cell() const { return cx_.defined() ? cx_.const_data_ptr() : nullptr; }

  void weights(RnnWeights (&weights)[2]) const {
    const size_t step = params_.size() / problem_.directions;
    for (const auto d : c10::irange(problem_.directions)) {
      const auto data = [&](size_t i) { return i < step ? params_[d * step + i].const_data_ptr() : nullptr; };
      weights[d] = {data(0), data(1), data(2), data(3)};
      if (scales_.empty()) continue;
      weights[d].input_scale = scales_[2 * d].const_data_ptr<float>();
      weights[d].hidden_scale = scales_[2 * d + 1].const_data_ptr<float>();
    }
  }

  at::TensorOptions options() const { return hx_.options(); }
  std::vector<int64_t> state_sizes() const { return hx_.sizes().vec(); }
  std::vector<int64_t> output_sizes() const {
    const int64_t width = problem_.directions * problem_.hidden_size;
    if (problem_.batch_sizes) return {problem_.rows, width};
    return {problem_.steps, problem_.batch, width};
  }
  std::vector<int64_t> reserve_sizes() const {
    return {problem_.directions, problem_.rows, reserve_blocks(problem_.mode, masks_.defined()), problem_.hidden_size};
  }

 private:
  RnnLayer problem_;
  Tensor input_, hx_, cx_, batch_sizes_, masks_;
  c10::SmallVector<Tensor, 8> params_;
  c10::SmallVector<Tensor, 4> scales_;
};

Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return empty_result(sizes, options, at::MemoryFormat::Contiguous);
}

LayerResult run_forward(const Layer& layer, c10::Device device, const Tensor& reserve) {
  const c10::DeviceGuard guard(device);
  const RnnLayer& p = layer.problem();
  Tensor output = empty(layer.output_sizes(), layer.options());
  Tensor hy = at::empty(layer.state_sizes(), layer.options());
  Tensor cy = at::empty(p.mode == RnnMode::lstm ? layer.state_sizes() : std::vector<int64_t>{0}, layer.options());
  RnnForward arrays{};
  arrays.input = layer.input();
  arrays.hidden = layer.hidden();
  arrays.cell = layer.cell();
  layer.weights(arrays.weights);
  arrays.output = output.mutable_data_ptr();
  arrays.final_hidden = hy.mutable_data_ptr();
  arrays.final_cell = p.mode == RnnMode::lstm ? cy.mutable_data_ptr() : nullptr;
  arrays.masks = layer.masks();
  arrays.reserve = reserve.defined() ? reserve.mutable_data_ptr<float>() : nullptr;
  TorchContext context(device);
  check_status(kernels_of(device, &KernelLibrary::rnn)->forward(p, arrays, context));
  return {output, hy, cy};
}

LayerResult rnn_layer(const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList params,
                      const OptionalTensor& batch_sizes, const OptionalTensor& masks) {
  const LayerTensors tensors(input, hx, cx, params, batch_sizes, masks);
  check_layer(tensors);
  return compute_layer(tensors);
}

// The operators of training are called by autograd, which has asked for a kernel, or by hand. What began with
// kernels ends with kernels: fastvision.backends.enabled does not come between forward and backward.
void check_training(const LayerTensors& tensors) {
  check_layer(tensors);
  check_batch_sizes(tensors);
  const RnnKernels* kernels = kernels_of(tensors.input.device(), &KernelLibrary::rnn);
  TORCH_CHECK(kernel_dtype(tensors.input.scalar_type()) && kernels &&
                  (!tensors.masks.defined() || kernels->takes_masks) && tensors.input.numel() && tensors.hx.numel(),
              "fastvision::rnn_layer: no kernel for these arguments; expected the call of lstm or gru, which run the "
              "reference");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_layer_with_reserve(const Tensor& input, const Tensor& hx,
                                                                  const OptionalTensor& cx, at::TensorList params,
                                                                  const OptionalTensor& batch_sizes,
                                                                  const OptionalTensor& masks) {
  const LayerTensors tensors(input, hx, cx, params, batch_sizes, masks);
  check_training(tensors);
  const Layer layer(tensors);
  Tensor reserve = empty(layer.reserve_sizes(), layer.options().dtype(at::kFloat));
  auto [output, hy, cy] = run_forward(layer, input.device(), reserve);
  return {output, hy, cy, reserve};
}

void check_shaped(const char* name, const Tensor& tensor, at::IntArrayRef sizes, at::ScalarType dtype,
                  c10::Device device) {
  TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == dtype && tensor.device() == device,
              "fastvision::rnn_layer_backward: ", name, ": expected shape ", sizes, " and dtype ", dtype, " on ",
              device, ", got ", tensor.sizes(), " ", tensor.scalar_type(), " on ", tensor.device());
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> rnn_layer_backward(
    const OptionalTensor& grad_output, const OptionalTensor& grad_hy, const OptionalTensor& grad_cy,
    const Tensor& input, const Tensor& hx, const OptionalTensor& cx, at::TensorList params,
    const OptionalTensor& batch_sizes, const Tensor& output, const Tensor& reserve, std::array<bool, 4> mask,
    const OptionalTensor& masks) {
  const LayerTensors tensors(input, hx, cx, params, batch_sizes, masks);
  check_training(tensors);
  const Layer layer(tensors);
  const c10::Device device = input.device();
  const at::ScalarType dtype = input.scalar_type();
  check_shaped("output", output, layer.output_sizes(), dtype, device);
  check_shaped("reserve", reserve, layer.reserve_sizes(), at::kFloat, device);

  const c10::DeviceGuard guard(device);
  RnnBackward arrays{};
  std::vector<Tensor> alive;
  const auto data_of = [&](const char* name, const OptionalTensor& gradient, at::IntArrayRef sizes) -> const void* {
    if (!gradient || !gradient->defined()) return nullptr;
    check_shaped(name, *gradient, sizes, dtype, device);
    alive.push_back(gradient->contiguous());
    return alive.back().const_data_ptr();
  };
  arrays.grad_output = data_of("grad_output", grad_output, layer.output_sizes());
  arrays.grad_final_hidden = data_of("grad_hy", grad_hy, layer.state_sizes());
  arrays.grad_final_cell = tensors.is_lstm() ? data_of("grad_cy", grad_cy, layer.state_sizes()) : nullptr;
  arrays.input = layer.input();
  arrays.hidden = layer.hidden();
  arrays.cell = layer.cell();
  layer.weights(arrays.weights);
  arrays.output = data_of("output", output, layer.output_sizes());
  const Tensor dense_reserve = reserve.contiguous();
  arrays.masks = layer.masks();
  arrays.reserve = dense_reserve.const_data_ptr<float>();

  const auto wanted = [&](bool is_wanted, at::IntArrayRef sizes) {
    return is_wanted ? empty(sizes, layer.options()) : at::empty({0}, layer.options());
  };
  const auto data = [](bool is_wanted, const Tensor& tensor) {
    return is_wanted ? tensor.mutable_data_ptr() : nullptr;
  };
  const Tensor grad_input = wanted(mask[0], input.sizes());
  const Tensor grad_hx = wanted(mask[1], layer.state_sizes());
  const bool cell_wanted = mask[2] && tensors.is_lstm();
  const Tensor grad_cx = wanted(cell_wanted, layer.state_sizes());
  arrays.grad_input = data(mask[0], grad_input);
  arrays.grad_hidden = data(mask[1], grad_hx);
  arrays.grad_cell = data(cell_wanted, grad_cx);
  std::vector<Tensor> grad_params;
  for (const Tensor& param : params) grad_params.push_back(wanted(mask[3], param.sizes()));
  if (mask[3]) {
    const size_t step = tensors.params_per_direction();
    for (const auto d : c10::irange(tensors.directions())) {
      const auto at = [&](size_t i) { return i < step ? grad_params[d * step + i].mutable_data_ptr() : nullptr; };
      arrays.grad_weights[d] = {at(0), at(1), at(2), at(3)};
    }
  }
  TorchContext context(device);
  check_status(kernels_of(device, &KernelLibrary::rnn)->backward(layer.problem(), arrays, context));
  return {grad_input, grad_hx, grad_cx, grad_params};
}

// A cell in inference takes microseconds, so it makes no views and copies no tensors.
class Cell {
 public:
  Cell(const Tensor& input, const Tensor& hx, const Tensor* cx, const Tensor& w_ih, const Tensor& w_hh,
       const OptionalTensor& b_ih, const OptionalTensor& b_hh)
      : input_(input), hx_(hx), cx_(cx), w_ih_(w_ih), w_hh_(w_hh), b_ih_(pointer(b_ih)), b_hh_(pointer(b_hh)) {
    problem_.mode = cx ? RnnMode::lstm : RnnMode::gru;
  }

  // What does not fit is stock's to judge.
  bool has_kernel() {
    const auto dtype = kernel_dtype(input_.scalar_type());
    const RnnKernels* kernels = kernels_of(input_.device(), &KernelLibrary::rnn);
    if (!kernels_enabled() || !kernels || !dtype || !fits()) return false;
    problem_.dtype = *dtype;
    problem_.steps = 1;
    problem_.batch = problem_.rows = input_.size(0);
    problem_.input_size = problem_.input_row_stride = input_.size(1);
    problem_.hidden_size = hx_.size(1);
    return kernels->supports(problem_, /*training=*/false);
  }

  // The next hidden state and, if there is one, that of the cell in `cy`.
  Tensor run(Tensor* cy) const {
    const c10::DeviceGuard guard(input_.device());
    const auto input = input_.expect_contiguous(), hx = hx_.expect_contiguous(), w_ih = w_ih_.expect_contiguous(),
               w_hh = w_hh_.expect_contiguous();
    const auto optional = [](const Tensor* tensor) {
      return tensor ? tensor->expect_contiguous() : c10::MaybeOwned<Tensor>::owned(std::in_place);
    };
    const auto cx = optional(cx_), b_ih = optional(b_ih_), b_hh = optional(b_hh_);
    const auto data = [](const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; };
    Tensor hy = at::empty(hx_.sizes(), hx_.options(), at::MemoryFormat::Contiguous);
    if (cy) *cy = at::empty(hx_.sizes(), hx_.options(), at::MemoryFormat::Contiguous);
    const RnnForward arrays{.input = input->const_data_ptr(),
                            .hidden = hx->const_data_ptr(),
                            .cell = data(*cx),
                            .weights = {{w_ih->const_data_ptr(), w_hh->const_data_ptr(), data(*b_ih), data(*b_hh)}, {}},
                            .output = hy.mutable_data_ptr(),
                            .final_hidden = nullptr,
                            .final_cell = cy ? cy->mutable_data_ptr() : nullptr,
                            .reserve = nullptr};
    TorchContext context(input_.device());
    check_status(kernels_of(input_.device(), &KernelLibrary::rnn)->forward(problem_, arrays, context));
    return hy;
  }

 private:
  static const Tensor* pointer(const OptionalTensor& tensor) {
    return tensor && tensor->defined() ? &*tensor : nullptr;
  }

  bool fits() const {
    if (input_.dim() != 2 || hx_.dim() != 2 || input_.numel() == 0 || hx_.numel() == 0 || !b_ih_ != !b_hh_) {
      return false;
    }
    const int64_t batch = input_.size(0), hidden = hx_.size(1), width = hidden * problem_.gates();
    const auto is = [&](const Tensor& tensor, at::IntArrayRef sizes) {
      return is_like(tensor, input_) && tensor.sizes() == sizes;
    };
    return is(hx_, {batch, hidden}) && (!cx_ || is(*cx_, {batch, hidden})) && is(w_ih_, {width, input_.size(1)}) &&
           is(w_hh_, {width, hidden}) && (!b_ih_ || (is(*b_ih_, {width}) && is(*b_hh_, {width})));
  }

  const Tensor &input_, &hx_;
  const Tensor* cx_;
  const Tensor &w_ih_, &w_hh_;
  const Tensor *b_ih_, *b_hh_;
  RnnLayer problem_;
};

std::tuple<Tensor, Tensor> lstm_cell(const Tensor& input, const Tensor& hx, const Tensor& cx, const Tensor& w_ih,
                                     const Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
  Cell cell(input, hx, &cx, w_ih, w_hh, b_ih, b_hh);
  if (!cell.has_kernel()) return at::lstm_cell(input, {hx, cx}, w_ih, w_hh, b_ih, b_hh);
  Tensor cy;
  Tensor hy = cell.run(&cy);
  return {std::move(hy), std::move(cy)};
}

Tensor gru_cell(const Tensor& input, const Tensor& hx, const Tensor& w_ih, const Tensor& w_hh,
                const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
  Cell cell(input, hx, nullptr, w_ih, w_hh, b_ih, b_hh);
  if (!cell.has_kernel()) return at::gru_cell(input, hx, w_ih, w_hh, b_ih, b_hh);
  return cell.run(nullptr);
}

DirectKernel direct_lstm_cell(at::ArrayRef<c10::IValue>) {
  return [](c10::Stack& s) {
    set_results(s, fastvision::lstm_cell(s[0].toTensor(), s[1].toTensor(), s[2].toTensor(), s[3].toTensor(),
                                         s[4].toTensor(), s[5].toOptional<Tensor>(), s[6].toOptional<Tensor>()));
  };
}

DirectKernel direct_gru_cell(at::ArrayRef<c10::IValue>) {
  return [](c10::Stack& s) {
    set_results(s, fastvision::gru_cell(s[0].toTensor(), s[1].toTensor(), s[2].toTensor(), s[3].toTensor(),
                                        s[4].toOptional<Tensor>(), s[5].toOptional<Tensor>()));
  };
}

const bool kHaveDirectKernels = add_direct_kernel("fastvision::lstm_cell", &direct_lstm_cell) &&
                                add_direct_kernel("fastvision::gru_cell", &direct_gru_cell);

void register_operators(torch::Library& m) {
  m.impl("rnn_layer", &rnn_layer);
  m.impl("rnn_layer_with_reserve", &rnn_layer_with_reserve);
  m.impl("rnn_layer_backward", &rnn_layer_backward);
  m.impl("lstm_cell", &lstm_cell);
  m.impl("gru_cell", &gru_cell);
}

}  // namespace

LayerResult compute_layer(const LayerTensors& layer) {
  check_batch_sizes(layer);
  return layer_has_kernel(layer, /*training=*/false) ? run_layer_kernel(layer) : rnn_layer_reference(layer);
}

LayerResult run_layer_kernel(const LayerTensors& layer) {
  return run_forward(Layer(layer), layer.input.device(), Tensor());
}

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  register_operators(m);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  register_operators(m);
}

}  // namespace fastvision
