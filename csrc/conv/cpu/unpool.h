// The gradient of the convolution's output from that of the pooled output: the way back through
// pool and activation.
#pragma once

#include "conv/conv.h"

namespace fastvision {

// The pooled side.
struct PooledGradient {
  const void* grad_output;   // strides as the output's
  const uint8_t* selection;  // null where needs_selection() is false
};

// Some pixels of one row of the pooled side, all channels of a range.
struct PooledPixels {
  int64_t image, row, first_column, columns, first_channel, channels;
};

// Their gradients as fp32, [column][channel].
void load_gradients(const ConvPool2d& problem, const PooledGradient& from, const PooledPixels& at, float* target);

// The same as [channel][column], rows `stride` apart.
void load_gradient_rows(const ConvPool2d& problem, const PooledGradient& from, const PooledPixels& at, float* target,
                        int64_t stride);

// The selection of channel 0 of a pixel.
inline const uint8_t* selection_at(const ConvPool2d& p, const PooledGradient& from, int64_t image, int64_t row,
                                   int64_t column) {
  return from.selection + ((image * p.out_h + row) * p.out_w + column) * p.out_channels;
}

// A window [row][column][channel] of the convolution's output, fp32.
struct ConvWindow {
  float* data;  // of (first_row, first_column, first_channel)
  int64_t first_row, rows, first_column, columns, first_channel, channels;
  int64_t row_stride, pixel;
};

// Adds the gradients to the window, which the caller has zeroed.
void unpool(const ConvPool2d& problem, const PooledGradient& gradient, int64_t image, const ConvWindow& window);

}  // namespace fastvision
