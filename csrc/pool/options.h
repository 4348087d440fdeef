#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

namespace fastvision {

// What torch.max_pool2d takes after its input.
struct MaxPoolOptions {
  at::IntArrayRef kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

// A function of (input, options) with the parameter list of its schema.
template <auto Function>
auto from_flat_options(const at::Tensor& input, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  return Function(input, MaxPoolOptions{kernel_size, stride, padding, dilation, ceil_mode});
}

}  // namespace fastvision
