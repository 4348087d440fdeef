// What the launchers of both passes need of a layer.
#pragma once

#include <vector>

#include "rnn/cuda/launch.h"
#include "rnn/cuda/rows.cuh"

namespace fastvision::rnn_cuda {

// fp32 states of all directions while the steps run.
struct LayerStates {
  float* cell;  // null for GRU
  unsigned* arrivals;
};

// The number of each step's first row.
class RowNumbers {
 public:
  explicit RowNumbers(const RnnLayer& p) : p_(p) {
    for (int64_t t = 0, row = 0; p.batch_sizes && t < p.steps; row += p.batch_at(t++)) offsets_.push_back(row);
  }
  int64_t offset(int64_t step) const { return p_.batch_sizes ? offsets_[step] : step * p_.batch; }

 private:
  const RnnLayer& p_;
  std::vector<int64_t> offsets_;
};

// The input of all steps as a matrix of dense rows: itself if its rows are evenly apart, else a copy.
template <class Element>
const char* dense_input(const RnnLayer& p, const void* input, Context& context, MatrixView& result) {
  if (p.batch_sizes || p.steps == 1 || p.input_step_stride == p.batch * p.input_row_stride) {
    result = {input, p.dtype, p.rows, p.input_size, p.input_row_stride, 1};
    return nullptr;
  }
  Element* copy = allocate<Element>(context, p.rows * p.input_size);
  result = matrix(copy, p.dtype, p.rows, p.input_size);
  const RowCopy rows{input, copy, p.input_step_stride, p.input_row_stride, p.steps, p.batch, p.input_size};
  return launch_elements<copy_rows<Element>>(p.rows * p.input_size, context, rows);
}

}  // namespace fastvision::rnn_cuda
