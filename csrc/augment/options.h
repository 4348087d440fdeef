// The family's options as the operators take them, checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "augment/augment.h"

namespace fastvision {

struct ResampleOptions {
  at::ArrayRef<double> scale, offset;  // one number, or one for each channel
  Interpolation interpolation;
  Fill fill;
  double cval;
  at::MemoryFormat memory_format;

  // Raises what names the option, what is expected and what came.
  ResampleOptions(const at::Tensor& images, const at::Tensor& matrices, at::ArrayRef<double> scale,
                  at::ArrayRef<double> offset, std::string_view interpolation, std::string_view fill_mode, double cval,
                  at::MemoryFormat memory_format);

  double scale_of(int64_t channel) const { return scale[scale.size() > 1 ? channel : 0]; }
  double offset_of(int64_t channel) const { return offset[offset.size() > 1 ? channel : 0]; }
};

// The result's: floating-point images keep theirs, others become float32.
at::ScalarType resampled_dtype(const at::Tensor& images);

}  // namespace fastvision
