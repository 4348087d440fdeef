// The problem that the conv family solves, as a plain struct: 2-D convolution + bias +
// activation + pooling, which PyTorch runs as conv2d, relu and max_pool2d / avg_pool2d.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/types.h"

namespace fastvision {

enum class Pool : uint8_t { none, max, avg };

struct ConvPool2d {
  DType dtype = DType::f32;
  bool allow_tf32 = false;      // CUDA: fp32 products may be rounded to tf32
  bool allow_winograd = false;  // CPU: a few roundings more, and not-a-numbers that spread to their neighbours

  int64_t batch = 0, in_channels = 0, in_h = 0, in_w = 0;
  int64_t out_channels = 0, kernel_h = 0, kernel_w = 0;  // weight: (out, in / groups, kh, kw), contiguous
  bool channels_last_weight = false;                     // or channels_last, where the library reads it
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0;  // bottom and right padding follow from conv_h and conv_w
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;
  int64_t conv_h = 0, conv_w = 0;  // the convolution's output, which never exists in memory

  Activation activation = Activation::relu;
  Pool pool = Pool::max;
  // With Pool::none the window is 1x1, stride 1, padding 0.
  int64_t pool_kernel_h = 1, pool_kernel_w = 1;
  int64_t pool_stride_h = 1, pool_stride_w = 1;
  int64_t pool_pad_h = 0, pool_pad_w = 0;
  bool count_include_pad = true;
  int64_t out_h = 0, out_w = 0;  // ceil_mode has its say here and nowhere else

  ImageStrides input_strides{}, output_strides{};  // gradients have the strides of what they are a gradient of
};

// One axis of a pooling window: the convolution outputs [begin, end) it covers, the place of
// `begin` inside the unclipped window, and how many elements avg_pool2d divides by.
struct PoolSpan {
  int64_t begin, end, first_tap, divisor;
};

#if defined(__CUDACC__)
__host__ __device__
#endif
    inline PoolSpan pool_span(int64_t out_index, int64_t kernel, int64_t stride, int64_t pad, int64_t size,
                              bool count_include_pad) {
  const int64_t start = out_index * stride - pad;
  // As ATen: the divisor is counted before the window is clipped to the image, but after
  // it is clipped to the padded image (a ceil_mode window may reach beyond even that).
  const int64_t padded_end = start + kernel < size + pad ? start + kernel : size + pad;
  const int64_t begin = start > 0 ? start : 0;
  const int64_t end = padded_end < size ? padded_end : size;
  return {begin, end, begin - start, count_include_pad ? padded_end - start : end - begin};
}

// The forward pass of training keeps one byte per output, in `selection`, a dense
// (batch, out_h, out_w, out_channels) array: where the gradient of that output goes.
//   Pool::none  0 (it passes) or kDead (ReLU stopped it)
//   Pool::max   row * pool_kernel_w + column of the winner in the unclipped window, or kDead.
//               The first of equal values wins and a NaN beats all, as in max_pool2d.
//   Pool::avg   bit (row * pool_kernel_w + column) is set where ReLU lets the gradient pass
constexpr uint8_t kDead = 255;
constexpr int64_t kMaxSelectableMaxWindow = 255;
constexpr int64_t kMaxSelectableAvgWindow = 8;

// The activations that all kernels have, those of training and with pools among them.
inline bool is_relu_or_none(Activation activation) {
  return activation == Activation::relu || activation == Activation::none;
}

// Without ReLU, only the winner of a maximum has to be remembered.
inline bool needs_selection(const ConvPool2d& p) {
  return p.activation == Activation::relu || p.pool == Pool::max;
}

inline bool selection_fits(const ConvPool2d& p) {
  const int64_t window = p.pool_kernel_h * p.pool_kernel_w;
  if (p.pool == Pool::max) return window <= kMaxSelectableMaxWindow;
  if (p.pool == Pool::avg && p.activation == Activation::relu) return window <= kMaxSelectableAvgWindow;
  return true;
}

}  // namespace fastvision
