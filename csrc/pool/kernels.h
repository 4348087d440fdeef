// The pool kernels of one library as a table of functions. pool/op.cpp checks the arguments, allocates the results and
// calls these.
#pragma once

#include "core/context.h"
#include "pool/pool.h"

namespace fastvision {

struct MaxPoolingArrays {
  const void* input;
  void* output;
  int64_t* indices;  // in the plane of each maximum, or null
};

struct AvgPoolingArrays {
  const void* input;
  void* output;
};

struct PoolKernels {
  // Null, or what went wrong. No size is zero.
  const char* (*max_pool)(const Pooling&, const MaxPoolingArrays&, Context&);
  // Whether it is faster than stock's when it gives indices, as stock's always does.
  bool (*is_faster_with_indices)(const Pooling&);
  const char* (*avg_pool)(const AvgPooling&, const AvgPoolingArrays&, Context&);
};

}  // namespace fastvision
