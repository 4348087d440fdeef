// Pooling of images as a problem.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

// Planes of rows of columns, all dense. Every window has an element of the plane, and padding is no wider than a plane.
struct Pooling {
  DType dtype = DType::f32;
  int64_t planes = 0;
  int64_t in_h = 0, in_w = 0, out_h = 0, out_w = 0;
  int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

struct AvgPooling : Pooling {
  bool count_include_pad = true;
  int64_t divisor = 0;  // zero: the elements of a window, with its padding or without
};

}  // namespace fastvision
