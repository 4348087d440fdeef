// Weights in Winograd's form.
#pragma once

#include "conv/cpu/winograd.h"

namespace fastvision::winograd {

// From point to point of a block's weights, in floats: a cache line more than a power of two, so that points do not
// share cache sets.
inline int64_t weight_stride(const DirectPlan& plan) {
  constexpr int64_t kCacheLine = 16;
  return plan.group_in_channels * plan.block_channels + kCacheLine;
}

// Floats that one block takes.
inline int64_t weight_block_size(const DirectPlan& plan) {
  constexpr int64_t kPoints = 36;
  return kPoints * weight_stride(plan);
}

// Output channels of block `block` as [point][channel][vector], missing ones zero. Blocks are numbered through all
// groups.
void transform_weights(const ConvPool2d& problem, const DirectPlan& plan, const void* weight, int64_t block,
                       float* transformed);

}  // namespace fastvision::winograd
