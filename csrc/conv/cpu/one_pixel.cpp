#include "conv/cpu/one_pixel.h"

#include <algorithm>

#include "linear/cpu/linear.h"

namespace fastvision {
namespace {

Linear linear_problem(const ConvPool2d& p) {
  const int64_t taps = p.in_channels * p.kernel_h * p.kernel_w;
  return {LinearWeight::f32,     p.activation, p.batch, taps, p.out_channels, /*input_stride=*/taps,
          /*weight_stride=*/taps};
}

// What the kernel sees of an image, in the order of its weights; zeros where that is padding.
void gather(const ConvPool2d& p, const float* image, float* taps) {
  const int64_t window = p.kernel_h * p.kernel_w;
  const int64_t channel = p.channels_last_weight ? 1 : window, place = p.channels_last_weight ? p.in_channels : 1;
  std::fill_n(taps, p.in_channels * window, 0.f);
  for (int64_t i = 0; i < p.kernel_h; ++i) {
    for (int64_t j = 0; j < p.kernel_w; ++j) {
      const int64_t y = i * p.dilation_h - p.pad_top, x = j * p.dilation_w - p.pad_left;
      if (y < 0 || y >= p.in_h || x < 0 || x >= p.in_w) continue;
      const float* pixel = image + y * p.input_strides.h + x * p.input_strides.w;
      float* to = taps + (i * p.kernel_w + j) * place;
      for (int64_t c = 0; c < p.in_channels; ++c) to[c * channel] = pixel[c * p.input_strides.c];
    }
  }
}

// A kernel as large as the image, in its order.
bool sees_the_image_as_it_is(const ConvPool2d& p) {
  const bool whole = p.kernel_h == p.in_h && p.kernel_w == p.in_w && p.pad_top == 0 && p.pad_left == 0 &&
                     p.dilation_h == 1 && p.dilation_w == 1;
  const bool one_pixel = p.in_h == 1 && p.in_w == 1;
  return whole && (one_pixel || (p.input_strides.c == 1) == p.channels_last_weight);
}

}  // namespace

bool makes_one_pixel(const ConvPool2d& p) {
  return p.conv_h == 1 && p.conv_w == 1 && p.groups == 1 && p.pool == Pool::none && p.dtype == DType::f32;
}

bool one_pixel_is_faster(const ConvPool2d& p) {
  return linear_cpu_kernels()->is_faster(linear_problem(p));
}

void one_pixel_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const Linear linear = linear_problem(p);
  const auto* input = static_cast<const float*>(tensors.input);
  if (!sees_the_image_as_it_is(p)) {
    auto* taps = static_cast<float*>(context.allocate(sizeof(float) * p.batch * linear.in_features));
    for (int64_t n = 0; n < p.batch; ++n) gather(p, input + n * p.input_strides.n, taps + n * linear.in_features);
    input = taps;
  }
  auto* output = static_cast<float*>(tensors.output);
  linear_cpu_kernels()->forward(
      linear, {input, tensors.weight, tensors.scale, static_cast<const float*>(tensors.bias), output}, context);
  finish(output, p.batch * p.out_channels);
}

}  // namespace fastvision
