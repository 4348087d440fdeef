// Pooling rows of convolution outputs that lie in L1 as [row][column][channel of the block].
#pragma once

#include "conv/conv.h"
#include "core/simd.h"

namespace fastvision {

// Rows of convolution outputs, bias added; `rows[i]` is row begin + i of the window's span.
struct PoolInput {
  const float* const* rows;
  PoolSpan row_span;
  int64_t pixel;  // floats from column to column
};

// One output row of a block of channels. `codes`, null in inference, takes the selection (conv.h) as floats.
struct PooledRow {
  float* values;
  int64_t value_pixel;
  float* codes;
  int64_t code_pixel;
};

// Pools `vectors` vectors of channels; ReLU is part of it. Without a pool the window is one convolution output.
void pool_row(const ConvPool2d& problem, const PoolInput& input, int64_t vectors, const PooledRow& output);

}  // namespace fastvision
