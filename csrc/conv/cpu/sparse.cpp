#include "conv/cpu/sparse.h"

#include "core/simd.h"

namespace fastvision {
namespace {

// Inputs under the windows of one pooled row, a block of channels: offsets into them are of 32 bits.
bool offsets_fit(const ConvPool2d& p) {
  const int64_t rows = (p.pool_kernel_h - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
  const int64_t columns = (p.conv_w - 1) * p.stride_w + p.kernel_w;
  return columns <= INT32_MAX / kLanes / rows;
}

}  // namespace

// Time of the direct kernels / the sparse ones, gradient of the input and of the weight, one core of a Zen 3 (AVX2),
// 3x3 and a 2x2 pool if nothing else is said:
//   b32 32>64 @111 2.1 3.4, 64>128 @54 2.6 3.2, 128>256 @28 2.7 3.1, 3>32 @224 2.2 1.8; channels_last and bf16 alike
//   b8 @56: 1>32 2.3 1.7, 16>4 1.1 3.5, 16>32 1.7 2.4, 16>128 2.1 2.6; b8 512>512 @14 1.9 2.1; b1 16>16 @12 1.0 1.0
//   b8 16>32 @56, pool 3x3 stride 2 1.6 2.6, 3x3 stride 3 2.7 3.2, 4x4 - 5.2
//     pool 2x2 stride 1 0.73 1.09, 3x3 stride 1 0.69 1.29: as many winners as pixels
//   b8 16>32 @56, kernel 1x1 - 1.3, 2x2 - 1.9, 5x5 - 2.5, 7x7 - 3.1, 3x3 stride 2 - 1.8
ConvGradients sparse_is_faster(const ConvPool2d& p) {
  if (p.pool != Pool::max) return {false, false};
  const bool plain_3x3 = p.kernel_h == 3 && p.kernel_w == 3 && p.stride_h == 1 && p.stride_w == 1 &&
                         p.dilation_h == 1 && p.dilation_w == 1;
  const bool square_window = p.pool_kernel_h == p.pool_kernel_w && (p.pool_kernel_h == 2 || p.pool_kernel_h == 3);
  const bool fewer_winners_than_pixels = p.pool_stride_h * p.pool_stride_w > 1;
  const bool short_rows = p.dilation_w == 1 && p.kernel_w <= kMaxSparseKernelWidth;
  const bool window_fits = p.pool_kernel_h * p.pool_kernel_w <= kTableSize;
  return {plain_3x3 && square_window && fewer_winners_than_pixels, short_rows && window_fits && offsets_fit(p)};
}

}  // namespace fastvision
