// Sizes that a compiler traces as symbols.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastvision {

// Whether sizes() of it would raise, or fix a symbol's value.
inline bool is_symbolic(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

}  // namespace fastvision
