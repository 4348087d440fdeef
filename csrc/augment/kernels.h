// The augment kernels of one library as a table of functions. augment/op.cpp checks the arguments, allocates the result
// and calls these.
#pragma once

#include "augment/augment.h"
#include "core/context.h"

namespace fastvision {

struct AffineResamplingArrays {
  const void* images;
  const double* matrices;  // dense; any numbers, NaN and infinity too
  float* result;
};

// Every launch function returns null, or what went wrong.
struct AugmentKernels {
  const char* (*resample)(const AffineResampling&, const AffineResamplingArrays&, Context&);
};

}  // namespace fastvision
