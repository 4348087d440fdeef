// Problems of the conv family, drawn at random.
#pragma once

#include <cstdio>
#include <random>
#include <string>

#include "conv/conv.h"
#include "host_tensor.h"

namespace fastvision {

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  bool chance(int one_in) { return between(1, one_in) == 1; }
  template <class T, size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[between(0, n - 1)];
  }

 private:
  std::mt19937 engine_;
};

inline int64_t random_pooled_size(Random& random, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t span = size + 2 * pad - kernel;
  const int64_t pooled = span / stride + 1;
  const bool one_more = span % stride != 0 && pooled * stride < size + pad;
  return one_more && random.chance(2) ? pooled + 1 : pooled;  // ceil_mode
}

inline void choose_pool(Random& random, ConvPool2d& p) {
  p.activation = random.chance(4) ? Activation::none : Activation::relu;
  p.pool = random.one_of({Pool::none, Pool::max, Pool::max, Pool::avg});
  p.count_include_pad = random.chance(2);
  if (p.pool != Pool::none) {
    const int largest = static_cast<int>(std::min<int64_t>({p.conv_h, p.conv_w, 4}));
    p.pool_kernel_h = random.chance(2) ? std::min(2, largest) : random.between(1, largest);
    p.pool_kernel_w = random.chance(2) ? p.pool_kernel_h : random.between(1, largest);
    p.pool_stride_h = random.chance(2) ? 2 : random.between(1, 3);
    p.pool_stride_w = random.chance(2) ? p.pool_stride_h : random.between(1, 3);
    p.pool_pad_h = random.chance(2) ? 0 : random.between(0, static_cast<int>(p.pool_kernel_h / 2));
    p.pool_pad_w = random.chance(2) ? 0 : random.between(0, static_cast<int>(p.pool_kernel_w / 2));
  }
  p.out_h = random_pooled_size(random, p.conv_h, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h);
  p.out_w = random_pooled_size(random, p.conv_w, p.pool_kernel_w, p.pool_stride_w, p.pool_pad_w);
}

inline ConvPool2d random_problem(Random& random) {
  ConvPool2d p;
  p.dtype = random.one_of({DType::f32, DType::f32, DType::f16, DType::bf16});
  p.groups = random.one_of({1, 1, 1, 2, 3});
  p.batch = random.between(1, 3);
  p.in_channels = p.groups * random.one_of({1, 2, 3, 4, 5, 8, 16, 17, 33});
  p.out_channels =
      p.groups * (p.groups == 1 ? random.one_of({1, 3, 8, 16, 17, 31, 32, 33, 65}) : random.between(8, 35));
  p.kernel_h = random.between(1, 5);
  p.kernel_w = random.chance(2) ? p.kernel_h : random.between(1, 7);
  p.stride_h = random.one_of({1, 1, 2, 3});
  p.stride_w = random.chance(2) ? p.stride_h : random.between(1, 3);
  p.dilation_h = random.one_of({1, 1, 2});
  p.dilation_w = random.one_of({1, 1, 2, 3});
  if (random.chance(8)) p.kernel_h = p.kernel_w = 1;
  p.allow_winograd = random.chance(2);
  if (p.allow_winograd) {  // what it applies to
    p.kernel_h = p.kernel_w = 3;
    p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
  }
  if (random.chance(8)) {  // a depthwise one
    p.groups = p.in_channels = p.out_channels = random.between(2, 40);
    p.allow_winograd = false;
    p.kernel_h = p.kernel_w = random.one_of({3, 5, 7});
    p.stride_h = p.stride_w = random.between(1, 2);
    p.dilation_h = p.dilation_w = 1;
  }
  // Winograd's sums of padding alone are not exactly zero, and ties among them are decided by chance.
  const int widest = p.allow_winograd ? 2 : 4;
  p.pad_top = random.chance(2) ? 0 : random.between(0, widest);
  p.pad_left = random.chance(2) ? 0 : random.between(0, widest);
  const int64_t bottom = random.chance(2) ? p.pad_top : random.between(0, widest);
  const int64_t right = random.chance(2) ? p.pad_left : random.between(0, widest);
  p.in_h = p.dilation_h * (p.kernel_h - 1) + random.between(1, 16);
  p.in_w = p.dilation_w * (p.kernel_w - 1) + random.between(1, 20);
  p.conv_h = (p.in_h + p.pad_top + bottom - p.dilation_h * (p.kernel_h - 1) - 1) / p.stride_h + 1;
  p.conv_w = (p.in_w + p.pad_left + right - p.dilation_w * (p.kernel_w - 1) - 1) / p.stride_w + 1;
  choose_pool(random, p);
  const bool channels_last = random.chance(2);
  p.input_strides = dense_strides(channels_last, p.in_channels, p.in_h, p.in_w);
  p.output_strides = dense_strides(channels_last, p.out_channels, p.out_h, p.out_w);
  return p;
}

inline std::string describe(const ConvPool2d& p) {
  const char* const dtypes[] = {"f32", "bf16", "f16"};
  const char* const pools[] = {"none", "max", "avg"};
  char text[512];
  std::snprintf(text, sizeof text,
                "%s%s %s batch %ld groups %ld in %ldx%ldx%ld out %ld kernel %ldx%ld stride %ldx%ld pad %ld,%ld "
                "dilation %ldx%ld conv %ldx%ld relu %d pool %s %ldx%ld stride %ldx%ld pad %ldx%ld to %ldx%ld",
                p.allow_winograd ? "winograd " : "", dtypes[static_cast<int>(p.dtype)],
                p.input_strides.c == 1 ? "channels_last" : "contiguous", p.batch, p.groups, p.in_channels, p.in_h,
                p.in_w, p.out_channels, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.pad_top, p.pad_left,
                p.dilation_h, p.dilation_w, p.conv_h, p.conv_w, p.activation == Activation::relu,
                pools[static_cast<int>(p.pool)], p.pool_kernel_h, p.pool_kernel_w, p.pool_stride_h, p.pool_stride_w,
                p.pool_pad_h, p.pool_pad_w, p.out_h, p.out_w);
  return text;
}

}  // namespace fastvision
