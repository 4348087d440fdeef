// The way from scratch rows of a block of channels to the output tensor and the selection.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/cpu/pool.h"

namespace fastvision {

// Some output channels of one image.
class OutputBlock {
 public:
  // `pixel`: floats from column to column of scratch rows, at least `channels`. `selection` is null in inference.
  OutputBlock(const ConvPool2d& problem, void* output, uint8_t* selection, const Finish& finish, int64_t image,
              int64_t first_channel, int64_t channels, int64_t pixel)
      : p_(problem),
        output_(output),
        selection_(selection),
        finish_(finish),
        image_(image),
        first_channel_(first_channel),
        channels_(channels),
        pixel_(pixel) {}

  int64_t channels() const { return channels_; }

  // Whole blocks of fp32 pixels need no detour through scratch memory.
  bool is_written_in_place() const;

  // Where to compute row y: in the output itself or in scratch memory of out_w * pixel floats each.
  PooledRow row(int64_t y, float* values, float* codes) const;

  // A row of many planes is as many cache misses: they pass while the row is computed.
  void prefetch(int64_t y) const;

  // Brings a computed row to the output.
  void emit(int64_t y, const PooledRow& row) const;

 private:
  int64_t offset(int64_t y) const {
    return image_ * p_.output_strides.n + first_channel_ * p_.output_strides.c + y * p_.output_strides.h;
  }
  void emit_values(const float* values, int64_t at) const;
  void emit_codes(const float* codes, int64_t y) const;
  void finish_values(int64_t at) const;

  const ConvPool2d& p_;
  void* output_;
  uint8_t* selection_;
  const Finish& finish_;
  int64_t image_, first_channel_, channels_, pixel_;
};

}  // namespace fastvision
