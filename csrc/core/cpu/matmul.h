// Large matrix products with fp32 on the left and the problem's dtype on the right and in the result.
#pragma once

#include "core/context.h"
#include "core/types.h"

namespace fastvision {

struct MatmulTerm {
  // Element (i, k) is left[i * row_stride + k * depth_stride]; one of the strides is 1.
  const float* left;
  int64_t row_stride, depth_stride;
  const void* const* right;  // `depth` rows of `columns` elements
  int64_t depth;
};

// The sum of one or two products.
struct Matmul {
  DType dtype;
  int64_t rows, columns;
  MatmulTerm terms[2];
  int term_count;
  void* const* result;  // `rows` rows of `columns` elements
};

void matmul(const Matmul& problem, Context& context);

}  // namespace fastvision
