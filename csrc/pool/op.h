#pragma once

#include "pool/options.h"

namespace fastvision {

// Whether a pool in training, which needs the indices, has a kernel.
bool max_pool2d_trains_by_kernel(const at::Tensor& input, const MaxPoolOptions& options);

}  // namespace fastvision
