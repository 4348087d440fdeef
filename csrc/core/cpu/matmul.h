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

// Where the rows of a matrix begin, `stride` elements apart, from row `first` on and round.
inline void** matrix_rows(const void* matrix, DType dtype, int64_t rows, int64_t stride, int64_t first,
                          Context& context) {
  auto** pointers = static_cast<void**>(context.allocate(sizeof(void*) * rows));
  char* const begin = static_cast<char*>(const_cast<void*>(matrix));
  for (int64_t i = 0; i < rows; ++i) pointers[i] = begin + (first + i) % rows * stride * size_of(dtype);
  return pointers;
}

void matmul(const Matmul& problem, Context& context);

}  // namespace fastvision
