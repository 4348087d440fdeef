// The part of the backward pass that goes from step to step.
#pragma once

#include "core/context.h"
#include "core/processor.h"
#include "rnn/kernels.h"

namespace fastvision {

// What the steps read and leave for the products over all rows.
struct BackwardRows {
  const int64_t* offsets;              // of each step's first row
  const void* const* previous_hidden;  // (directions, rows): the state before each row's step
  const void* const* weights[2];       // rows of the hidden weights

  // (directions, rows, stride): gradients before the activations. LSTM i, f, g, o; GRU n, r, z, n' with n toward the
  // input and n' toward the hidden state, so that the gates of either side lie together.
  float* gates;
  int64_t stride;

  const float* of_direction(const RnnLayer& p, int64_t direction) const { return gates + direction * p.rows * stride; }
};

// Where in a row of BackwardRows::gates those toward the hidden state begin; those toward the input begin at 0.
inline int64_t hidden_gates_offset(const RnnLayer& p) {
  return p.mode == RnnMode::gru ? p.hidden_size : 0;
}

// The row whose state the sequence had before `step`, or -1: its initial state.
inline int64_t previous_row(const RnnLayer& p, const int64_t* offsets, int64_t direction, int64_t step,
                            int64_t sequence) {
  const int64_t previous = direction == 0 ? step - 1 : step + 1;
  if (previous < 0 || previous == p.steps || sequence >= p.batch_at(previous)) return -1;
  return offsets[previous] + sequence;
}

// Whether products are the context's: packing the weights of a single step can only pay where ours are wider. There,
// with 8 rows, a step takes as long, with 32 rows 0.6 to 0.8 and with 256 rows 0.5 of the time.
inline bool multiplies_by_stock(const RnnLayer& p) {
  constexpr int64_t kMinRows = 8;
  return p.steps == 1 && p.dtype == DType::f32 && !(multiplies_wider_than_stock() && p.batch >= kMinRows);
}

// Fills rows.gates, arrays.grad_hidden and arrays.grad_cell; where the context multiplies, grad_hidden lacks its
// product.
void backward_steps(const RnnLayer& problem, const RnnBackward& arrays, const BackwardRows& rows, Context& context);

}  // namespace fastvision
