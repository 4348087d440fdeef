#include "linear/cpu/backward.h"

#include "core/cpu/matmul.h"

namespace fastvision {
namespace {

// Where the rows of a dense or strided matrix begin.
template <class T>
T** row_pointers(T* matrix, int64_t rows, int64_t stride, Context& context) {
  auto** pointers = static_cast<T**>(context.allocate(sizeof(T*) * rows));
  for (int64_t i = 0; i < rows; ++i) pointers[i] = matrix + i * stride;
  return pointers;
}

// A matrix of fp32 numbers as a product reads or writes its rows.
const void* const* right(const float* matrix, int64_t rows, int64_t stride, Context& context) {
  return reinterpret_cast<const void* const*>(row_pointers(matrix, rows, stride, context));
}
void* const* result(float* matrix, int64_t rows, int64_t columns, Context& context) {
  return reinterpret_cast<void* const*>(row_pointers(matrix, rows, columns, context));
}

}  // namespace

const char* linear_backward(const Linear& p, const LinearBackward& t, Context& context) {
  if (t.grad_input) {
    const void* const* weight = right(t.weight, p.out_features, p.weight_stride, context);
    matmul({DType::f32,
            p.rows,
            p.in_features,
            {{t.grad_output, p.out_features, 1, weight, p.out_features}},
            1,
            result(t.grad_input, p.rows, p.in_features, context)},
           context);
  }
  if (t.grad_weight) {
    const void* const* input = right(t.input, p.rows, p.input_stride, context);
    matmul({DType::f32,
            p.out_features,
            p.in_features,
            {{t.grad_output, 1, p.out_features, input, p.rows}},
            1,
            result(t.grad_weight, p.out_features, p.in_features, context)},
           context);
  }
  return nullptr;
}

}  // namespace fastvision
