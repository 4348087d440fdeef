#include "linear/cpu/backward.h"

#include "core/cpu/matmul.h"

namespace fastvision {

const char* linear_backward(const Linear& p, const LinearBackward& t, Context& context) {
  const auto rows_of = [&](const float* matrix, int64_t rows, int64_t stride) {
    return matrix_rows(matrix, DType::f32, rows, stride, 0, context);
  };
  const auto multiply = [&](const MatmulTerm& term, float* result, int64_t rows) {
    matmul({DType::f32, rows, p.in_features, {term}, 1, rows_of(result, rows, p.in_features)}, context);
  };
  if (t.grad_input) {
    void** weight = rows_of(t.weight, p.out_features, p.weight_stride);
    multiply({t.grad_output, p.out_features, 1, weight, p.out_features}, t.grad_input, p.rows);
  }
  if (t.grad_weight) {
    void** input = rows_of(t.input, p.rows, p.input_stride);
    multiply({t.grad_output, 1, p.out_features, input, p.rows}, t.grad_weight, p.out_features);
  }
  return nullptr;
}

}  // namespace fastvision
