// The pooled output's gradient back onto the convolution's output, through activation and pooling.
#pragma once

#include "conv/conv.h"
#include "conv/cuda/tile.cuh"

namespace fastvision::conv_cuda {

constexpr int kUnpoolChannels = 32;  // threads in x
constexpr int kUnpoolPixels = 8;     // threads in y

struct Unpool {
  const void* grad_output;   // dense (batch, out_h, out_w, channels)
  const uint8_t* selection;  // null where needs_selection() is false
  void* grad_conv;           // dense (batch, conv_h, conv_w, padded_channels)
  Activation activation;
  Pool pool;
  bool count_include_pad;
  int64_t pixels;  // of the convolution's output, all images
  int conv_h, conv_w, out_h, out_w, channels, padded_channels, grad_output_channels;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// The outputs [begin, end) along one axis whose windows cover `position`.
struct Covering {
  int begin, end;
};

__device__ inline Covering covering(int position, int kernel, int stride, int pad, int out) {
  const int reach = position + pad - kernel;  // windows that start here or before end too early
  const int begin = reach < 0 ? 0 : reach / stride + 1;
  const int end = (position + pad) / stride + 1;
  return {begin, end < out ? end : out};
}

// Does the tap get a share of the output's gradient?
__device__ inline bool reaches(const Unpool& p, uint8_t selected, int tap) {
  if (p.pool == Pool::max) return selected == tap;
  if (p.pool == Pool::avg) return p.activation == Activation::none || (selected >> tap & 1) != 0;
  return selected != kDead;
}

// Grid: 8 pixels per block. Every thread gathers, so no order of additions is left to chance.
template <class Element>
__global__ void __launch_bounds__(kUnpoolChannels* kUnpoolPixels) unpool(const Unpool p) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kUnpoolPixels + threadIdx.y;
  if (pixel >= p.pixels) return;
  const int x = static_cast<int>(pixel % p.conv_w), y = static_cast<int>(pixel / p.conv_w % p.conv_h);
  const int64_t image = pixel / p.conv_w / p.conv_h;
  const Covering rows = covering(y, p.kernel_h, p.stride_h, p.pad_h, p.out_h);
  const Covering columns = covering(x, p.kernel_w, p.stride_w, p.pad_w, p.out_w);
  for (int c = static_cast<int>(threadIdx.x); c < p.padded_channels; c += kUnpoolChannels) {
    float sum = 0.0f;
    for (int oy = rows.begin; oy < rows.end && c < p.channels; ++oy) {
      const PoolSpan h = pool_span(oy, p.kernel_h, p.stride_h, p.pad_h, p.conv_h, p.count_include_pad);
      for (int ox = columns.begin; ox < columns.end; ++ox) {
        const PoolSpan w = pool_span(ox, p.kernel_w, p.stride_w, p.pad_w, p.conv_w, p.count_include_pad);
        const int64_t output = (image * p.out_h + oy) * p.out_w + ox;
        const int tap = static_cast<int>((y - h.begin + h.first_tap) * p.kernel_w + x - w.begin + w.first_tap);
        const uint8_t selected = p.selection == nullptr ? uint8_t{0} : p.selection[output * p.channels + c];
        if (!reaches(p, selected, tap)) continue;
        const float gradient =
            gpu::to_float(static_cast<const Element*>(p.grad_output)[output * p.grad_output_channels + c]);
        sum += p.pool == Pool::avg ? gradient / static_cast<float>(h.divisor * w.divisor) : gradient;
      }
    }
    static_cast<Element*>(p.grad_conv)[pixel * p.padded_channels + c] = gpu::from_float<Element>(sum);
  }
}

}  // namespace fastvision::conv_cuda
