// Copies and sums between the kernels of a layer.
#pragma once

#include "rnn/cuda/gates.cuh"

namespace fastvision::rnn_cuda {

// (outer, inner, columns), strided, to dense rows.
struct RowCopy {
  const void* from;
  void* to;
  int64_t outer_stride, inner_stride, outer, inner, columns;
};

template <class Element>
__global__ void __launch_bounds__(kThreads) copy_rows(const RowCopy p) {
  const int64_t count = p.outer * p.inner * p.columns;
  for (int64_t i = first_element(); i < count; i += element_step()) {
    const int64_t row = i / p.columns, column = i % p.columns;
    const int64_t from = row / p.inner * p.outer_stride + row % p.inner * p.inner_stride + column;
    static_cast<Element*>(p.to)[i] = static_cast<const Element*>(p.from)[from];
  }
}

// What a layer begins with: fp32 copies of states (zero where there are none), and the counter of its steps.
struct StatesToFloat {
  const void* from;  // null: zeros
  float* to;         // null: nothing to copy
  int64_t count;
  unsigned* arrivals;  // null, or set to zero
};

template <class Element>
__global__ void __launch_bounds__(kThreads) states_to_float(const StatesToFloat p) {
  if (p.arrivals && first_element() == 0) *p.arrivals = 0;
  if (!p.to) return;
  for (int64_t i = first_element(); i < p.count; i += element_step()) p.to[i] = load_or_zero<Element>(p.from, i);
}

// What it ends with: states, and for the first `added_count` elements what is added to them.
struct StatesFromFloat {
  const float* from;
  const float* added;
  int64_t added_count;
  void* to;
  int64_t count;
};

template <class Element>
__global__ void __launch_bounds__(kThreads) states_from_float(const StatesFromFloat p) {
  for (int64_t i = first_element(); i < p.count; i += element_step()) {
    store<Element>(p.to, i, p.from[i] + (i < p.added_count ? p.added[i] : 0.0f));
  }
}

// The sum of the rows of a dense matrix, in a fixed order.
struct RowSum {
  const void* matrix;
  void *sum, *same_sum;  // the latter null, or a second place for it
  int64_t rows, columns;
};

// Grid: (columns / 32).
template <class Element>
__global__ void __launch_bounds__(kThreads) sum_rows(const RowSum p) {
  using WarpSums = float[kWarps][kLanes];
  GPU_SHARED(WarpSums, warp_sums);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kLanes + lane;
  float sum = 0.0f;
  for (int64_t row = warp; row < p.rows && column < p.columns; row += kWarps) {
    sum += load<Element>(p.matrix, row * p.columns + column);
  }
  warp_sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= p.columns) return;
  for (int other = 1; other < kWarps; ++other) sum += warp_sums[other][lane];
  store<Element>(p.sum, column, sum);
  if (p.same_sum) store<Element>(p.same_sum, column, sum);
}

}  // namespace fastvision::rnn_cuda
