// How a convolution is cut into pieces for the direct kernel: which channels, rows and taps
// one pass of the inner loop sees. Pure arithmetic on the problem; no SIMD.
#pragma once

#include <cstdint>
#include <vector>

#include "conv/conv.h"
#include "core/integers.h"

namespace fastvision {

// Where the inner loop finds its inputs, as fp32.
enum class InputOrder : uint8_t {
  interleaved,  // [row][column][channel]: long runs of taps, any channel count
  planar,       // [channel][row][column]: NCHW input with few channels, which need no transposing
};

// Successive taps at equal distances in the input, so that they share one address computation.
struct TapRun {
  int64_t offset;  // of the first tap, from the address of the output's first tap, in elements
  int32_t length;
  bool ends_chain;  // sums up to here leave the registers: short chains of additions keep rounding small
};

struct DirectPlan {
  InputOrder order;
  bool in_place;  // the inner loop reads the input tensor itself, else a strip of rows copied from it

  int64_t group_in_channels, group_out_channels;
  int64_t strip_w;                                    // columns of a strip, padding included
  int64_t pixel;                                      // from column to column of an interleaved strip, in elements
  int64_t row_stride, column_stride, channel_stride;  // of the strip or the input, in elements
  int64_t tap_stride;                                 // from tap to tap of a run
  std::vector<TapRun> taps;                           // of one output, in the order (row, column, channel)
  int64_t tap_count;
  int64_t chains;  // in a sum

  int64_t block_channels;  // output channels per pass of the inner loop
  int64_t blocks;          // such blocks per group
  int64_t band_rows;       // output rows that share a strip
  int64_t bands;
  int64_t block_sets;  // the blocks of a band are cut into this many units of work
  int64_t max_strip_rows;
  int64_t max_band_conv_rows;

  int64_t strip_size() const {
    return in_place                      ? 0
           : order == InputOrder::planar ? channel_stride * group_in_channels
                                         : row_stride * max_strip_rows;
  }
};

// What the plan may choose from.
enum class InputChoice : uint8_t {
  any,
  interleaved,        // [row][column][channel], in place where the tensor is so already
  interleaved_strip,  // always a strip: there is no tensor to read in place
};

// `lanes` is the width of a vector of fp32.
DirectPlan make_direct_plan(const ConvPool2d& problem, int64_t lanes, InputChoice choice = InputChoice::any);

// Rows [begin, end) of the convolution that output rows [first, last) pool over.
struct RowRange {
  int64_t begin, end;
};
RowRange conv_rows(const ConvPool2d& problem, int64_t first, int64_t last);

}  // namespace fastvision
