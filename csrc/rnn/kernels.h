// The rnn kernels of one library as a table of functions. rnn/op.cpp checks the arguments, allocates the
// outputs and calls these.
#pragma once

#include "core/context.h"
#include "rnn/rnn.h"

namespace fastvision {

// Pointers are of the problem's dtype, arrays are dense where nothing else is said, [direction] counts from 0 to
// directions - 1, gate blocks follow PyTorch's order. The matrices of weights are of the problem's storage.
struct RnnWeights {
  const void* input;                    // (gates * hidden_size, input_size)
  const void* hidden;                   // (gates * hidden_size, hidden_size)
  const void* input_bias;               // (gates * hidden_size), or null: no biases
  const void* hidden_bias;              // null exactly where input_bias is
  const float* input_scale = nullptr;   // (gates * hidden_size): of each row of int8; null for other storage
  const float* hidden_scale = nullptr;  // the same
};

struct RnnForward {
  const void* input;   // (rows, input_size), strided as the problem says
  const void* hidden;  // (directions, batch, hidden_size): the initial states
  const void* cell;    // the same; null for GRU
  RnnWeights weights[2];
  void* output;        // (rows, directions * hidden_size)
  void* final_hidden;  // (directions, batch, hidden_size); null where the caller reads it from the output of one step
  void* final_cell;    // the same; null for GRU
  float* reserve;      // (directions, rows, reserve_blocks, hidden_size), or null in inference
  RnnMasks masks = {};
};

struct RnnWeightGradients {
  void *input, *hidden, *input_bias, *hidden_bias;
};

// A null gradient is not wanted, or, among the incoming ones, zero.
struct RnnBackward {
  const void* grad_output;
  const void* grad_final_hidden;
  const void* grad_final_cell;
  const void* input;
  const void* hidden;
  const void* cell;
  RnnWeights weights[2];
  const void* output;
  const float* reserve;
  void* grad_input;  // dense (rows, input_size)
  void* grad_hidden;
  void* grad_cell;
  RnnWeightGradients grad_weights[2];
  RnnMasks masks = {};
};

// Every launch function returns null, or what went wrong.
struct RnnKernels {
  // Is there a kernel for this problem, and is it the faster choice? With rows == 0 the sizes are unknown
  // (a compiled graph with dynamic shapes): true promises to run any of them.
  bool (*supports)(const RnnLayer&, bool training);
  const char* (*forward)(const RnnLayer&, const RnnForward&, Context&);
  const char* (*backward)(const RnnLayer&, const RnnBackward&, Context&);
  bool takes_masks = false;
  // Does forward know storage other than RnnStorage::same? Without it `supports` is not asked about any.
  bool decodes_weights = false;
};

}  // namespace fastvision
