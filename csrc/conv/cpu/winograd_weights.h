// Weights in Winograd's form.
#pragma once

#include "conv/cpu/weights.h"
#include "conv/cpu/winograd.h"
#include "core/context.h"

namespace fastvision::winograd {

// From point to point of a block's weights, in floats.
inline int64_t weight_stride(const DirectPlan& plan) {
  return plan.group_in_channels * plan.block_channels + kPointPadding;
}

// Floats that one block takes.
inline int64_t weight_block_size(const DirectPlan& plan) {
  return kPoints * weight_stride(plan);
}

// Floats that all blocks take.
inline int64_t weight_size(const ConvPool2d& problem, const DirectPlan& plan) {
  return problem.groups * plan.blocks * weight_block_size(plan);
}

// Output channels of block `block` as [point][channel][vector], missing ones zero. Blocks are numbered through all
// groups.
void transform_weights(const ConvPool2d& problem, const DirectPlan& plan, const Layer& layer, int64_t block,
                       float* transformed);

// The same for all blocks, one after the other.
void transform_all_weights(const ConvPool2d& problem, const DirectPlan& plan, const Layer& layer, float* transformed,
                           Context& context);

}  // namespace fastvision::winograd
