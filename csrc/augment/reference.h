#pragma once

#include <ATen/core/Tensor.h>

#include "augment/options.h"

namespace fastvision {

// Coordinates are float64; values are computed in the result's dtype.
at::Tensor affine_resample_reference(const at::Tensor& images, const at::Tensor& matrices,
                                     const ResampleOptions& options);

}  // namespace fastvision
