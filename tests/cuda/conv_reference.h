// What the conv kernels compute, loop by loop in double. Tensors are dense: images (batch, channel, row,
// column), weights (out, in / groups, row, column), the selection (batch, row, column, channel).
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "conv/conv.h"

namespace fastvision::reference {

using Values = std::vector<double>;

inline int64_t image_index(int64_t channels, int64_t height, int64_t width, int64_t n, int64_t c, int64_t y,
                           int64_t x) {
  return ((n * channels + c) * height + y) * width + x;
}

// Calls visit(input index, weight index, output index) for every product of the convolution.
template <class Visit>
void for_each_product(const ConvPool2d& p, const Visit& visit) {
  const int64_t group_in = p.in_channels / p.groups, group_out = p.out_channels / p.groups;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t o = 0; o < p.out_channels; ++o)
      for (int64_t y = 0; y < p.conv_h; ++y)
        for (int64_t x = 0; x < p.conv_w; ++x)
          for (int64_t c = 0; c < group_in; ++c)
            for (int64_t r = 0; r < p.kernel_h; ++r)
              for (int64_t s = 0; s < p.kernel_w; ++s) {
                const int64_t h = y * p.stride_h - p.pad_top + r * p.dilation_h;
                const int64_t w = x * p.stride_w - p.pad_left + s * p.dilation_w;
                if (h < 0 || h >= p.in_h || w < 0 || w >= p.in_w) continue;
                visit(image_index(p.in_channels, p.in_h, p.in_w, n, o / group_out * group_in + c, h, w),
                      ((o * group_in + c) * p.kernel_h + r) * p.kernel_w + s,
                      image_index(p.out_channels, p.conv_h, p.conv_w, n, o, y, x));
              }
}

// Calls visit(output index, selection index, first) before each pooled output's taps, then
// tap(convolution index, tap number, divisor) for each of them.
template <class Visit, class Tap>
void for_each_window(const ConvPool2d& p, const Visit& visit, const Tap& tap) {
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t c = 0; c < p.out_channels; ++c)
      for (int64_t oy = 0; oy < p.out_h; ++oy)
        for (int64_t ox = 0; ox < p.out_w; ++ox) {
          visit(image_index(p.out_channels, p.out_h, p.out_w, n, c, oy, ox),
                image_index(p.out_h, p.out_w, p.out_channels, n, oy, ox, c));
          const int64_t top = oy * p.pool_stride_h - p.pool_pad_h, left = ox * p.pool_stride_w - p.pool_pad_w;
          const int64_t bottom = std::min(top + p.pool_kernel_h, p.conv_h + p.pool_pad_h);
          const int64_t right = std::min(left + p.pool_kernel_w, p.conv_w + p.pool_pad_w);
          const int64_t rows = std::min(bottom, p.conv_h) - std::max<int64_t>(top, 0);
          const int64_t columns = std::min(right, p.conv_w) - std::max<int64_t>(left, 0);
          const int64_t divisor = p.count_include_pad ? (bottom - top) * (right - left) : rows * columns;
          for (int64_t y = std::max<int64_t>(top, 0); y < std::min(bottom, p.conv_h); ++y)
            for (int64_t x = std::max<int64_t>(left, 0); x < std::min(right, p.conv_w); ++x)
              tap(image_index(p.out_channels, p.conv_h, p.conv_w, n, c, y, x),
                  static_cast<int>((y - top) * p.pool_kernel_w + x - left), static_cast<double>(divisor));
        }
}

struct Forward {
  Values output;
  std::vector<uint8_t> selection;
};

inline Forward forward(const ConvPool2d& p, const Values& input, const Values& weight, const Values* bias) {
  Values conv(p.batch * p.out_channels * p.conv_h * p.conv_w);
  for_each_product(p, [&](int64_t i, int64_t w, int64_t o) { conv[o] += input[i] * weight[w]; });
  const bool relu = p.activation == Activation::relu;
  Forward result;
  result.output.resize(p.batch * p.out_channels * p.out_h * p.out_w);
  result.selection.resize(result.output.size());
  double* out = nullptr;
  uint8_t* selected = nullptr;
  bool first = true;
  for_each_window(
      p,
      [&](int64_t output, int64_t selection) {
        out = &result.output[output];
        selected = &result.selection[selection];
        first = true;
      },
      [&](int64_t index, int tap, double divisor) {
        const int64_t channel = index / (p.conv_h * p.conv_w) % p.out_channels;
        const double value = conv[index] + (bias == nullptr ? 0.0 : (*bias)[channel]);
        const bool stopped = relu && value <= 0;
        const double activated = stopped ? 0.0 : value;
        if (p.pool == Pool::avg) {
          *out += activated / divisor;
          if (!stopped) *selected |= static_cast<uint8_t>(1 << (tap % 32));
        } else if (first || activated > *out || std::isnan(activated)) {
          *out = activated;
          *selected = stopped ? kDead : static_cast<uint8_t>(p.pool == Pool::max ? tap : 0);
        }
        first = false;
      });
  return result;
}

// The gradient of the convolution's output.
inline Values unpool(const ConvPool2d& p, const Values& grad_output, const std::vector<uint8_t>& selection) {
  Values grad_conv(p.batch * p.out_channels * p.conv_h * p.conv_w);
  double gradient = 0;
  uint8_t selected = 0;
  for_each_window(
      p,
      [&](int64_t output, int64_t at) {
        gradient = grad_output[output];
        selected = needs_selection(p) ? selection[at] : 0;
      },
      [&](int64_t index, int tap, double divisor) {
        if (p.pool == Pool::max && selected == tap) grad_conv[index] += gradient;
        if (p.pool == Pool::none && selected != kDead) grad_conv[index] += gradient;
        if (p.pool == Pool::avg && (p.activation == Activation::none || (selected >> tap & 1))) {
          grad_conv[index] += gradient / divisor;
        }
      });
  return grad_conv;
}

struct Backward {
  Values input, weight, bias;
};

inline Backward backward(const ConvPool2d& p, const Values& grad_conv, const Values& input, const Values& weight) {
  Backward g{Values(input.size()), Values(weight.size()), Values(p.out_channels)};
  for_each_product(p, [&](int64_t i, int64_t w, int64_t o) {
    g.input[i] += grad_conv[o] * weight[w];
    g.weight[w] += grad_conv[o] * input[i];
  });
  for (size_t o = 0; o < grad_conv.size(); ++o) g.bias[o / (p.conv_h * p.conv_w) % p.out_channels] += grad_conv[o];
  return g;
}

}  // namespace fastvision::reference
