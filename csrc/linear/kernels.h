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

// Of fp32 weights. The gradient of the output before the activation, and what the others are wanted of: null where not.
struct LinearBackward {
  const float* grad_output;  // dense
  const float *input, *weight;
  float *grad_input, *grad_weight;  // dense
};

// Every launch function returns null, or what went wrong. No size is zero.
struct LinearKernels {
  const char* (*forward)(const Linear&, const LinearForward&, Context&);
  const char* (*backward)(const Linear&, const LinearBackward&, Context&);
  // Than stock's operators, which have fp32 weights.
  bool (*is_faster)(const Linear&);
  bool (*input_gradient_is_faster)(const Linear&);
  bool (*weight_gradient_is_faster)(const Linear&);
};

}  // namespace fastvision
