// The linear kernels of one library as a table of functions. linear/op.cpp checks the arguments, allocates the result
// and calls these.
#pragma once

#include "core/context.h"
#include "linear/linear.h"

namespace fastvision {

struct LinearForward {
  const float* input;
  const void* weight;
  const float* scale;  // factors of the weights' rows, or null
  const float* bias;   // or null
  float* output;       // dense
};

// Every launch function returns null, or what went wrong. No size is zero.
struct LinearKernels {
  const char* (*forward)(const Linear&, const LinearForward&, Context&);
  // Than stock's operator, which has fp32 weights.
  bool (*is_faster)(const Linear&);
};

}  // namespace fastvision
