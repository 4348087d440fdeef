// Autocast. Stock's linear layers run in the lower precision, its gates in what that and the hidden state promote to.
// The kernels compute in fp32 whatever the dtype, so all of it runs in the promoted dtype, which is the results'. Where
// stock's LSTM is oneDNN's, all of it runs in the lower precision, there and here.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include "core/operator_handle.h"
#include "rnn/layer.h"
#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <c10::DeviceType device>
class Autocast {
 public:
  static LayerResult lstm(const Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases,
                          int64_t num_layers, double dropout, bool train, bool bidirectional, bool batch_first,
                          const OptionalTensor& batch_sizes) {
    const bool is_projected = hx.size() == 2 && !hx[0].sym_sizes().equals(hx[1].sym_sizes());
    if (is_projected) {  // no kernel's; stock's results have several dtypes
      return lstm_reference(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first,
                            batch_sizes);
    }
    static const auto op = find_operator<decltype(lstm)>("fastvision::lstm");
    const Autocast cast(is_onednns_in_stock(input, batch_sizes) ? at::autocast::get_autocast_dtype(device)
                                                                : promoted(hx.empty() ? input : hx[0]));
    return op.call(cast(input), cast(hx), cast(params), has_biases, num_layers, dropout, train, bidirectional,
                   batch_first, batch_sizes);
  }

  static std::tuple<Tensor, Tensor> gru(const Tensor& input, const Tensor& hx, at::TensorList params, bool has_biases,
                                        int64_t num_layers, double dropout, bool train, bool bidirectional,
                                        bool batch_first, const OptionalTensor& batch_sizes) {
    static const auto op = find_operator<decltype(gru)>("fastvision::gru");
    const Autocast cast(promoted(hx));
    return op.call(cast(input), cast(hx), cast(params), has_biases, num_layers, dropout, train, bidirectional,
                   batch_first, batch_sizes);
  }

  static LayerResult regularized_rnn(const Tensor& input, at::TensorList hx, at::TensorList params, bool has_biases,
                                     int64_t num_layers, double dropout, bool train, bool bidirectional,
                                     bool batch_first, const OptionalTensor& batch_sizes, at::ArrayRef<double> zoneout,
                                     double recurrent_dropout) {
    static const auto op = find_operator<decltype(regularized_rnn)>("fastvision::regularized_rnn");
    const Autocast cast(promoted(hx.empty() ? input : hx[0]));
    return op.call(cast(input), cast(hx), cast(params), has_biases, num_layers, dropout, train, bidirectional,
                   batch_first, batch_sizes, zoneout, recurrent_dropout);
  }

  static std::tuple<Tensor, Tensor> lstm_cell(const Tensor& input, const Tensor& hx, const Tensor& cx,
                                              const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                                              const OptionalTensor& b_hh) {
    static const auto op = find_operator<decltype(lstm_cell)>("fastvision::lstm_cell");
    const Autocast cast(promoted(hx));
    return op.call(cast(input), cast(hx), cast(cx), cast(w_ih), cast(w_hh), cast(b_ih), cast(b_hh));
  }

  static Tensor gru_cell(const Tensor& input, const Tensor& hx, const Tensor& w_ih, const Tensor& w_hh,
                         const OptionalTensor& b_ih, const OptionalTensor& b_hh) {
    static const auto op = find_operator<decltype(gru_cell)>("fastvision::gru_cell");
    const Autocast cast(promoted(hx));
    return op.call(cast(input), cast(hx), cast(w_ih), cast(w_hh), cast(b_ih), cast(b_hh));
  }

  // The stored weights are nobody's dtype.
  static LayerResult layer_quantized(const Tensor& input, const Tensor& hx, const OptionalTensor& cx,
                                     at::TensorList weights, at::TensorList scales, at::TensorList biases,
                                     const OptionalTensor& batch_sizes) {
    static const auto op = find_operator<decltype(layer_quantized)>("fastvision::rnn_layer_quantized");
    const Autocast cast(promoted(hx));
    return op.call(cast(input), cast(hx), cast(cx), weights, scales, cast(biases), batch_sizes);
  }

 private:
  explicit Autocast(at::ScalarType dtype) : dtype_(dtype) {}

  static at::ScalarType promoted(const Tensor& hx) {
    return c10::promoteTypes(hx.scalar_type(), at::autocast::get_autocast_dtype(device));
  }

  // On a processor that has what oneDNN needs for 16 bits; on others stock raises an error.
  static bool is_onednns_in_stock(const Tensor& input, const OptionalTensor& batch_sizes) {
    const bool is_packed = batch_sizes && batch_sizes->defined();
    return device == c10::DeviceType::CPU && at::globalContext().userEnabledMkldnn() && !is_packed &&
           input.scalar_type() != at::kDouble && input.sym_numel() != 0;
  }

  template <class T>
  auto operator()(const T& argument) const {
    return at::autocast::cached_cast(dtype_, argument, device);
  }

  const c10::impl::ExcludeDispatchKeyGuard guard_{
      c10::DispatchKeySet(at::autocast::get_autocast_dispatch_key_from_device_type(device))};
  const at::ScalarType dtype_;
};

template <c10::DeviceType device>
void register_operators(torch::Library& m) {
  m.impl("lstm", &Autocast<device>::lstm);
  m.impl("gru", &Autocast<device>::gru);
  m.impl("regularized_rnn", &Autocast<device>::regularized_rnn);
  m.impl("lstm_cell", &Autocast<device>::lstm_cell);
  m.impl("gru_cell", &Autocast<device>::gru_cell);
  m.impl("rnn_layer_quantized", &Autocast<device>::layer_quantized);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, AutocastCPU, m) {
  register_operators<c10::DeviceType::CPU>(m);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCUDA, m) {
  register_operators<c10::DeviceType::CUDA>(m);
}

}  // namespace fastvision
