#include "conv/cpu/conv.h"

#include "conv/cpu/backward.h"
#include "conv/cpu/forward.h"

namespace fastvision {
namespace {

// Fewer output channels per group leave most of a vector idle: depthwise convolution is stock's.
constexpr int64_t kMinGroupChannels = 8;

bool supports(const ConvPool2d& p) {
  const bool enough_channels = p.groups == 1 || p.out_channels / p.groups >= kMinGroupChannels;
  return enough_channels && p.pool_kernel_h * p.pool_kernel_w <= kMaxSelectableMaxWindow;
}

}  // namespace

const ConvKernels* conv_cpu_kernels() {
  static const ConvKernels kernels{
      .supports = &supports,
      .supported_gradients = &direct_supported_gradients,
      .forward = &direct_forward,
      .backward = &direct_backward,
      .unpool = &direct_unpool,
      .reads_channels_last_weight = true,
  };
  return &kernels;
}

}  // namespace fastvision
