// A cell in training: a layer of one step over a batch of rows.
#pragma once

#include <c10/util/SmallVector.h>

#include <algorithm>

#include "rnn/layer.h"

namespace fastvision {

class CellTensors {
 public:
  using OptionalTensor = std::optional<at::Tensor>;

  CellTensors(const at::Tensor& input, const at::Tensor& hx, const OptionalTensor& cx, const at::Tensor& w_ih,
              const at::Tensor& w_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh)
      : input_(input), hx_(hx), cx_(cx), params_{w_ih, w_hh} {
    for (const OptionalTensor* bias : {&b_ih, &b_hh}) {
      if (*bias && (*bias)->defined()) params_.push_back(**bias);
    }
  }

  // (batch, size) throughout, both biases or none, a kernel for such a layer: everything else is stock's to judge.
  bool has_kernel(bool training) const {
    if (input_.dim() != 2 || hx_.dim() != 2 || (cx_ && cx_->dim() != 2) || params_.size() == 3) return false;
    const LayerTensors tensors = layer();
    return is_plain_layer(tensors) && layer_has_kernel(tensors, training);
  }

  bool any(bool (*predicate)(const at::Tensor&)) const {
    return predicate(input_) || predicate(hx_) || (cx_ && predicate(*cx_)) ||
           std::any_of(params_.begin(), params_.end(), predicate);
  }

  // Its params are this object's.
  LayerTensors layer() const {
    return {input_.unsqueeze(0), hx_.unsqueeze(0), cx_ ? OptionalTensor(cx_->unsqueeze(0)) : std::nullopt, params_,
            std::nullopt};
  }

 private:
  const at::Tensor &input_, &hx_;
  const OptionalTensor cx_;
  c10::SmallVector<at::Tensor, 4> params_;
};

}  // namespace fastvision
