// The conv family's kernel table for CUDA.
#include "conv/cuda/backward.h"
#include "conv/cuda/forward.h"
#include "conv/cuda/kernels.h"

namespace fastvision {
namespace conv_cuda {
namespace {

constexpr int kTensorCoresOfAmpere = 80;  // compute capability from which they take bf16 and tf32

template <class... Sizes>
bool all_below(int64_t limit, Sizes... sizes) {
  return ((sizes < limit) && ...);
}

// The kernels count along an axis and along the depth of a product in 32 bits, over elements in 64.
bool sizes_fit(const ConvPool2d& p) {
  constexpr int64_t kMaxDepth = 1 << 30, kMaxTaps = 1 << 16;
  const int64_t taps = p.kernel_h * p.kernel_w;
  const int64_t reach_h = p.in_h + 2 * p.pad_top + p.kernel_h * p.dilation_h;
  const int64_t reach_w = p.in_w + 2 * p.pad_left + p.kernel_w * p.dilation_w;
  return all_below(kMaxImageSize, reach_h, reach_w, p.conv_h, p.conv_w, p.out_h, p.out_w, p.stride_h, p.stride_w,
                   p.conv_h * p.stride_h, p.conv_w * p.stride_w, p.in_channels, p.out_channels) &&
         all_below(kMaxDepth, p.batch) && all_below(kMaxTaps, p.kernel_h, p.kernel_w, taps) &&
         all_below(kMaxDepth, taps * (p.in_channels + kTileRows), taps * (p.out_channels + kTileRows));
}

// Every pooling window holds an output of the convolution, and a block's tile holds at least one window.
bool windows_fit(const ConvPool2d& p) {
  const auto reaches = [](int64_t out, int64_t stride, int64_t pad, int64_t kernel, int64_t conv) {
    return pad < kernel && (out - 1) * stride - pad < conv;
  };
  return all_below(kTileRows + 1, p.pool_kernel_h, p.pool_kernel_w, p.pool_kernel_h * p.pool_kernel_w) &&
         all_below(kMaxImageSize, p.pool_stride_h, p.pool_stride_w) &&
         reaches(p.out_h, p.pool_stride_h, p.pool_pad_h, p.pool_kernel_h, p.conv_h) &&
         reaches(p.out_w, p.pool_stride_w, p.pool_pad_w, p.pool_kernel_w, p.conv_w);
}

bool supports(const ConvPool2d& p) {
  return p.groups == 1 && p.in_channels > 0 && p.kernel_h > 0 && p.kernel_w > 0 && sizes_fit(p) && windows_fit(p) &&
         (p.dtype != DType::bf16 || gpu::current_device().compute_capability >= kTensorCoresOfAmpere);
}

ConvGradients supported_gradients(const ConvPool2d& p) {
  const bool both = supports(p) && selection_fits(p);
  return {both, both};
}

bool uses_tf32(const ConvPool2d& p) {
  return p.allow_tf32 && gpu::current_device().compute_capability >= kTensorCoresOfAmpere;
}

// Calls run with the way of multiplying that suits the problem.
template <class Run>
const char* with_math(const ConvPool2d& p, const Run& run) {
  if (p.dtype == DType::f16) return run(F16{});
  if (p.dtype == DType::bf16) return run(BF16{});
  return uses_tf32(p) ? run(TF32{}) : run(F32{});
}

const char* run_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, Context& context) {
  return with_math(p, [&](auto math) { return forward<decltype(math)>(p, tensors, context); });
}

const char* run_backward(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  return with_math(p, [&](auto math) { return backward<decltype(math)>(p, tensors, context); });
}

const char* run_unpool(const ConvPool2d& p, const void* grad_output, const uint8_t* selection, void* grad_conv,
                       Context& context) {
  return with_math(p, [&](auto math) {
    using Element = typename decltype(math)::Element;
    return unpool_gradient<Element>(p, grad_output, selection, grad_conv, p.out_channels, context);
  });
}

}  // namespace
}  // namespace conv_cuda

const ConvKernels cuda_conv_kernels{conv_cuda::supports, conv_cuda::supported_gradients, conv_cuda::run_forward,
                                    conv_cuda::run_backward, conv_cuda::run_unpool};

}  // namespace fastvision
