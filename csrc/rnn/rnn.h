// The problem that the rnn family solves, as a plain struct: one layer of LSTM or GRU over a batch of
// sequences, in one or both directions. A cell is a layer of one step.
//
//   LSTM  i, f, o = sigmoid(W x + b + U h + d), g = tanh(...); c' = f c + i g; h' = o tanh(c')
//   GRU   r, z = sigmoid(W x + b + U h + d), n = tanh(W x + b + r (U h + d)); h' = (1 - z) n + z h
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

enum class RnnMode : uint8_t { lstm, gru };

// What the weights are stored as, which computing decodes to fp32: the problem's dtype, or fewer bits in inference.
// Of int8, each row has a scale: weight = scale * int8.
enum class RnnStorage : uint8_t { same, bf16, int8 };

struct RnnLayer {
  RnnMode mode = RnnMode::lstm;
  DType dtype = DType::f32;
  RnnStorage storage = RnnStorage::same;
  int64_t steps = 0, batch = 0, input_size = 0, hidden_size = 0;
  int64_t directions = 1;  // the second one reads its sequences from their ends
  bool has_masks = false;
  bool is_packed = false;  // for `supports`, which is asked before there are batch_sizes

  // Packed sequences: how many of the batch's sequences reach each step, never growing, the first `batch`; null
  // where all do. Rows are numbered step by step: (step, sequence) is row offset(step) + sequence.
  const int64_t* batch_sizes = nullptr;
  int64_t rows = 0;  // of all steps

  // Of the input, in elements; its columns are dense. With batch_sizes the rows are input_row_stride apart
  // throughout, and input_step_stride has no meaning.
  int64_t input_step_stride = 0, input_row_stride = 0;

  int64_t gates() const { return mode == RnnMode::lstm ? 4 : 3; }  // i, f, g, o or r, z, n: PyTorch's order
  int64_t batch_at(int64_t step) const { return batch_sizes ? batch_sizes[step] : batch; }

  // Where the input of a sequence's step begins, in elements; `row` is the number of that row.
  int64_t input_offset(int64_t step, int64_t sequence, int64_t row) const {
    return batch_sizes ? row * input_row_stride : step * input_step_stride + sequence * input_row_stride;
  }
};

// The forward pass of training keeps, in fp32, for each direction and row, `reserve_blocks` blocks of hidden_size:
//   LSTM  i, f, g, o (after their activations) and c'
//   GRU   r, z, n (after their activations) and U h + d of the n gate
// and with masks for LSTM c'' too.
constexpr int64_t reserve_blocks(RnnMode mode, bool has_masks = false) {
  return mode == RnnMode::lstm ? 5 + has_masks : 4;
}

// Noise (zoneout and recurrent dropout) reaches a layer as masks, for each direction and row of so many blocks:
//   LSTM  k_h, k_c, s:  c'' = k_c c + (1 - k_c) c' with c' = f c + i (s g),  h'' = k_h h + (1 - k_h) h'
//   GRU   k_h, s:       h'' = k_h h + (1 - k_h) h' with h' = (1 - z) (s n) + z h
constexpr int64_t mask_blocks(RnnMode mode) {
  return mode == RnnMode::lstm ? 3 : 2;
}

struct RnnMasks {
  const float* data = nullptr;  // null: no noise
  // In elements; 0 where a mask is the same for all. Hidden units are dense.
  int64_t direction_stride = 0, row_stride = 0, block_stride = 0;

  const float* row(int64_t direction, int64_t row) const {
    return data ? data + direction * direction_stride + row * row_stride : nullptr;
  }
};

}  // namespace fastvision
