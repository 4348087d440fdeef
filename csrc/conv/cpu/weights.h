// Weights in the layout that the inner loop reads: fp32, in order of use, padded.
#pragma once

#include "conv/cpu/plan.h"
#include "core/context.h"

namespace fastvision {

// A layer's constants as conv2d_pool2d has them, or the kernel: `bias` and `scale` (ConvPool2dForward) may be null.
struct Layer {
  const void* weight;
  const void* bias;
  const float* scale = nullptr;
};

// Multiplies [row][channel], `channels` of them `stride` apart, by one factor for each channel.
void scale_channels(const float* factors, int64_t channels, float* rows, int64_t count, int64_t stride);

// The output channels of a block. Blocks are numbered through all groups.
struct ChannelRange {
  int64_t first, count;
};

inline ChannelRange block_channels(const DirectPlan& plan, int64_t block) {
  const int64_t first = block % plan.blocks * plan.block_channels;
  return {block / plan.blocks * plan.group_out_channels + first,
          std::min(plan.block_channels, plan.group_out_channels - first)};
}

// Floats that one block of packed weights takes.
inline int64_t packed_block_size(const DirectPlan& plan) {
  return plan.tap_count * plan.block_channels;
}

// Output channels of block `block` as [tap][channel], taps in the plan's order, missing channels zero.
void pack_weights(const ConvPool2d& problem, const DirectPlan& plan, const Layer& layer, int64_t block, float* packed);

// Biases of all blocks, [block][channel], missing ones zero. `bias` may be null. In the context's memory.
const float* pack_bias(const ConvPool2d& problem, const DirectPlan& plan, const void* bias, Context& context);

}  // namespace fastvision
