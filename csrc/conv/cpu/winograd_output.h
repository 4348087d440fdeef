// What becomes of the products of Winograd's algorithm: the way back to convolution outputs, activation and pool.
#pragma once

#include "conv/cpu/output.h"
#include "conv/cpu/winograd.h"

namespace fastvision::winograd {

// Some output rows of an image, and the rows of tiles that they pool over.
struct Band {
  int64_t image;
  int64_t first, last;  // output rows
  RowRange rows;        // of the convolution
  int64_t tile_rows;
};

// Products of a band's tiles with a block of output channels: [point][tile][vector].
struct TileSums {
  const float* data;
  int64_t point_stride;
  const float* bias;  // [vector]
};

// Floats of scratch memory that write_band takes.
int64_t band_output_size(const ConvPool2d& problem, const WinogradPlan& plan);

void write_band(const ConvPool2d& problem, const WinogradPlan& plan, const Band& band, const OutputBlock& output,
                const TileSums& sums, int64_t vectors, float* scratch);

}  // namespace fastvision::winograd
