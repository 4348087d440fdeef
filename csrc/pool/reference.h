#pragma once

#include <tuple>

#include "pool/options.h"

namespace fastvision {

at::Tensor max_pool2d_reference(const at::Tensor& input, const MaxPoolOptions& options);
std::tuple<at::Tensor, at::Tensor> max_pool2d_with_indices_reference(const at::Tensor& input,
                                                                     const MaxPoolOptions& options);
at::Tensor avg_pool2d_reference(const at::Tensor& input, const AvgPoolOptions& options);

}  // namespace fastvision
