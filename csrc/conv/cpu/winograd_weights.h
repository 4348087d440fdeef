// Weights in Winograd's form.
#pragma once

#include "conv/cpu/weights.h"
#include "conv/cpu/winograd.h"

namespace fastvision::winograd {

// From point to point of a block's weights, in floats.
inline int64_t weight_stride(const DirectPlan& plan) {
  return plan.group_in_channels * plan.block_channels + kPointPadding;
}

// Floats that one block takes.
inline int64_t weight_block_size(const DirectPlan& plan) {
  return kPoints * weight_stride(plan);
}

// Output channels of block `block` as [point][channel][vector], missing ones zero. Blocks are numbered through all
// groups.
void transform_weights(const ConvPool2d& problem, const DirectPlan& plan, const Layer& layer, int64_t block,
                       float* transformed);

}  // namespace fastvision::winograd
