// A fully connected layer as a problem: y = activation(x w^T + b).
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

// What the weights are stored in; all else is fp32.
enum class LinearWeight : uint8_t { f32, bf16, i8 };

// Elements of a row are dense.
struct Linear {
  LinearWeight weight = LinearWeight::f32;
  Activation activation = Activation::none;
  int64_t rows = 0, in_features = 0, out_features = 0;
  int64_t input_stride = 0, weight_stride = 0;  // from row to row
};

}  // namespace fastvision
