#include "conv/cpu/conv.h"

#include "conv/cpu/forward.h"

namespace fastvision {
namespace {

// Fewer output channels per group leave most of a vector idle: depthwise convolution is stock's.
constexpr int64_t kMinGroupChannels = 8;

bool supports(const ConvPool2d& p) {
  const bool enough_channels = p.groups == 1 || p.out_channels / p.groups >= kMinGroupChannels;
  return enough_channels && p.pool_kernel_h * p.pool_kernel_w <= kMaxSelectableMaxWindow;
}

ConvGradients supported_gradients(const ConvPool2d&) {
  return {false, false};
}

const char* backward(const ConvPool2d&, const ConvPool2dBackward&, Context&) {
  return "no kernel";
}
const char* unpool(const ConvPool2d&, const void*, const uint8_t*, void*, Context&) {
  return "no kernel";
}

}  // namespace

const ConvKernels* conv_cpu_kernels() {
  static const ConvKernels kernels{&supports, &supported_gradients, &direct_forward, &backward, &unpool};
  return &kernels;
}

}  // namespace fastvision
