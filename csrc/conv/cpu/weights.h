// Weights in the layout that the inner loop reads: fp32, in order of use, padded.
#pragma once

#include "conv/cpu/plan.h"
#include "core/context.h"

namespace fastvision {

// Floats that one block of packed weights takes.
inline int64_t packed_block_size(const DirectPlan& plan) {
  return plan.tap_count * plan.block_channels;
}

// Output channels of block `block` as [tap][channel], taps in the plan's order, missing channels zero.
// Blocks are numbered through all groups.
void pack_weights(const ConvPool2d& problem, const DirectPlan& plan, const void* weight, int64_t block, float* packed);

// Biases of all blocks, [block][channel], missing ones zero. `bias` may be null. In the context's memory.
const float* pack_bias(const ConvPool2d& problem, const DirectPlan& plan, const void* bias, Context& context);

}  // namespace fastvision
