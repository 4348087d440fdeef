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

// Convolution outputs of `columns` columns, ReLU applied or not, to out[column * pixel]. `input` is
// the address of the first output's first tap.
void store_row(const DirectPlan& plan, const Block& block, const float* input, int64_t columns, bool relu, float* out,
               int64_t pixel);

// True if convolution and pool run in one go: a 2x2 max-pool with stride 2 whose windows are whole.
bool pools_in_registers(const ConvPool2d& problem);

// One pooled row, for problems that pool in registers.
void max_pool_row(const ConvPool2d& problem, const DirectPlan& plan, const Block& block, const float* input,
                  const PooledRow& out);

}  // namespace fastvision
