// The tensors of one recurrent layer, as the schemas list them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "core/autograd.h"
#include "rnn/rnn.h"

namespace fastvision {

struct LayerTensors {
  at::Tensor input;        // (steps, batch, input_size), or (rows, input_size) with batch_sizes
  at::Tensor hx;           // (directions, batch, hidden_size)
  at::Tensor cx;           // the same; undefined for GRU
  at::TensorList params;   // per direction: w_ih, w_hh and, where there are biases, b_ih, b_hh
  at::Tensor batch_sizes;  // (steps), int64 on the CPU; undefined where all sequences are equally long
  at::Tensor masks;        // (directions, rows, mask_blocks, hidden_size), fp32; undefined: no noise
  at::TensorList scales;   // of the rows of int8 weights, per direction: of w_ih, w_hh

  LayerTensors(at::Tensor input, at::Tensor hx, const std::optional<at::Tensor>& cx, at::TensorList params,
               const std::optional<at::Tensor>& batch_sizes, const std::optional<at::Tensor>& masks = {})
      : input(std::move(input)),
        hx(std::move(hx)),
        cx(cx.value_or(at::Tensor())),
        params(params),
        batch_sizes(batch_sizes.value_or(at::Tensor())),
        masks(masks.value_or(at::Tensor())) {}

  bool is_lstm() const { return cx.defined(); }
  bool is_packed() const { return batch_sizes.defined(); }
  int64_t gates() const { return is_lstm() ? 4 : 3; }
  int64_t directions() const { return hx.sym_size(0).expect_int(); }
  size_t params_per_direction() const { return params.size() / directions(); }
  bool has_biases() const { return params_per_direction() >= 4; }
  bool is_projected() const { return params_per_direction() % 2 == 1; }  // with w_hr last: for the reference only
  RnnStorage storage() const {
    const at::ScalarType type = params[0].scalar_type();
    if (type == at::kChar) return RnnStorage::int8;
    return type == at::kBFloat16 && type != input.scalar_type() ? RnnStorage::bf16 : RnnStorage::same;
  }
};

using LayerResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // output, hy, cy

// The operator rnn_layer.
LayerResult call_layer(const LayerTensors& layer);

// Of the input's dtype and on its device.
bool is_like(const at::Tensor& tensor, const at::Tensor& input);

// Whether these may be the batch_sizes of an input, their values aside.
bool is_batch_sizes(const at::Tensor& batch_sizes, const at::Tensor& input);

// Do the tensors fit each other, as the kernels want them: one dtype and device, no projection? It asks for nothing
// that symbolic sizes could not answer.
bool is_plain_layer(const LayerTensors& layer);

// Raises unless they do.
void check_layer(const LayerTensors& layer);

// Raises unless batch_sizes, if there are any, are those of a PackedSequence with as many rows as the input. Reads
// them.
void check_batch_sizes(const LayerTensors& layer);

// Whether the operator runs a kernel for the layer, or else the reference.
bool layer_has_kernel(const LayerTensors& layer, bool training);

// The results for tensors that fit each other, by a kernel or the reference.
LayerResult compute_layer(const LayerTensors& layer);

// The results by the kernel that there is, for tensors that fit each other.
LayerResult run_layer_kernel(const LayerTensors& layer);

}  // namespace fastvision
