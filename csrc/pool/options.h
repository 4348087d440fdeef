#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>

namespace fastvision {

// What torch.max_pool2d takes after its input.
struct MaxPoolOptions {
  at::IntArrayRef kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

// What torch.nn.functional.avg_pool2d takes after its input.
struct AvgPoolOptions {
  at::IntArrayRef kernel_size, stride, padding;
  bool ceil_mode, count_include_pad;
  std::optional<int64_t> divisor_override;
};

// A function of (input, options) with the parameter list of its schema.
template <auto Function>
auto from_flat_options(const at::Tensor& input, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  return Function(input, MaxPoolOptions{kernel_size, stride, padding, dilation, ceil_mode});
}
template <auto Function>
at::Tensor from_flat_avg_options(const at::Tensor& input, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                 at::IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                                 std::optional<int64_t> divisor_override) {
  return Function(input, AvgPoolOptions{kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override});
}

}  // namespace fastvision
