// Rows of outputs for one block of channels, cut into register tiles.
#pragma once

#include "conv/cpu/plan.h"
#include "conv/cpu/pool.h"

namespace fastvision {

// What one block of output channels is computed from.
struct Block {
  const float* weights;  // [tap][channel of the block]
  const float* bias;     // [channel of the block]
  int64_t channels;      // that exist; the others are zero padding
};

// One or two rows of convolution outputs: where their inputs begin (the first output's first tap) and
// where they go, `pixel` floats from column to column.
struct ConvRows {
  int64_t count;
  const float* input[2];
  float* output[2];
  int64_t pixel;
};

// Computes the rows, with ReLU or without.
void store_rows(const DirectPlan& plan, const Block& block, int64_t columns, bool relu, const ConvRows& rows);

// A 2x2 max-pool with stride 2 whose windows are whole.
bool has_whole_pairs(const ConvPool2d& problem);

// True if the direct kernel's convolution and pool run in one go.
bool pools_in_registers(const ConvPool2d& problem);

// One pooled row, for problems that pool in registers.
void max_pool_row(const ConvPool2d& problem, const DirectPlan& plan, const Block& block, const float* input,
                  const PooledRow& out);

}  // namespace fastvision
