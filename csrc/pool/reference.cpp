// The specification: stock PyTorch's calls.
#include "pool/reference.h"

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/max_pool2d_with_indices.h>
#include <torch/library.h>

namespace fastvision {

using at::Tensor;

Tensor max_pool2d_reference(const Tensor& input, const MaxPoolOptions& o) {
  return at::max_pool2d(input, o.kernel_size, o.stride, o.padding, o.dilation, o.ceil_mode);
}

std::tuple<Tensor, Tensor> max_pool2d_with_indices_reference(const Tensor& input, const MaxPoolOptions& o) {
  return at::max_pool2d_with_indices(input, o.kernel_size, o.stride, o.padding, o.dilation, o.ceil_mode);
}

Tensor avg_pool2d_reference(const Tensor& input, const AvgPoolOptions& o) {
  return at::avg_pool2d(input, o.kernel_size, o.stride, o.padding, o.ceil_mode, o.count_include_pad,
                        o.divisor_override);
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("max_pool2d_reference", &from_flat_options<&max_pool2d_reference>);
  m.impl("max_pool2d_with_indices_reference", &from_flat_options<&max_pool2d_with_indices_reference>);
  m.impl("avg_pool2d_reference", &from_flat_avg_options<&avg_pool2d_reference>);
}

}  // namespace fastvision
