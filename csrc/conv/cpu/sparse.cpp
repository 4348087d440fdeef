#include "conv/cpu/sparse.h"

namespace fastvision {

ConvGradients sparse_is_faster(const ConvPool2d& p) {
  if (p.pool != Pool::max) return {false, false};
  const bool input = p.kernel_h == 3 && p.kernel_w == 3 && p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 &&
                     p.dilation_w == 1 && p.pool_kernel_h == p.pool_kernel_w && p.pool_kernel_h >= 2 &&
                     p.pool_kernel_h <= 3;
  const bool weight = p.dilation_w == 1 && p.kernel_w <= 7 && p.pool_kernel_h * p.pool_kernel_w <= 16;
  return {input, weight};
}

}  // namespace fastvision
