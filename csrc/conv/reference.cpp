// The family's reference: the same computation in stock PyTorch calls. It is the
// specification, the oracle of the tests, the baseline of the benchmarks, the fallback for
// what the kernels can't do, and the way to second derivatives.
#include "conv/reference.h"

#include <ATen/Context.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/relu6.h>
#include <ATen/ops/silu.h>
#include <torch/library.h>

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor convolve(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  const auto& [top, bottom, left, right] = o.padding;
  const bool symmetric = top == bottom && left == right;
  const Tensor padded = symmetric ? input : at::constant_pad_nd(input, {left, right, top, bottom});
  const Pair padding = symmetric ? Pair{top, left} : Pair{0, 0};
  return at::conv2d(padded, weight, bias, o.stride, padding, o.dilation, o.groups);
}

Tensor activate(Activation activation, Tensor input, bool in_place) {
  switch (activation) {
    case Activation::relu:
      return in_place ? at::relu_(input) : at::relu(input);
    case Activation::relu6:
      return in_place ? at::relu6_(input) : at::relu6(input);
    case Activation::silu:
      return in_place ? at::silu_(input) : at::silu(input);
    case Activation::hardswish:
      return in_place ? at::hardswish_(input) : at::hardswish(input);
    default:
      return input;
  }
}

Tensor pool(const ConvPool2dOptions& o, const Tensor& activated) {
  if (o.pool == Pool::max) {
    const Pair no_dilation{1, 1};
    return at::max_pool2d(activated, o.pool_kernel_size, o.pool_stride, o.pool_padding, no_dilation, o.ceil_mode);
  }
  if (o.pool == Pool::avg) {
    return at::avg_pool2d(activated, o.pool_kernel_size, o.pool_stride, o.pool_padding, o.ceil_mode,
                          o.count_include_pad);
  }
  return activated;
}

}  // namespace

Tensor activate_and_pool(const ConvPool2dOptions& o, const Tensor& convolved) {
  return pool(o, activate(o.activation, convolved, /*in_place=*/false));
}

Tensor conv2d_pool2d_by_stock(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                              const OptionalTensor& bias) {
  return pool(o, activate(o.activation, convolve(o, input, weight, bias), /*in_place=*/true));
}

Tensor conv2d_pool2d_reference(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                               const OptionalTensor& bias) {
  return activate_and_pool(o, convolve(o, input, weight, bias));
}

Tensor conv2d_batch_norm_pool2d_reference(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                          const OptionalTensor& bias, const Tensor& mean, const Tensor& var,
                                          const OptionalTensor& gamma, const OptionalTensor& beta, double eps) {
  constexpr double kMomentum = 0;  // of no effect on given statistics
  return activate_and_pool(o,
                           at::batch_norm(convolve(o, input, weight, bias), gamma, beta, mean, var,
                                          /*training=*/false, kMomentum, eps, at::globalContext().userEnabledCuDNN()));
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("conv2d_pool2d_reference", &WithOptions<&conv2d_pool2d_reference>::call);
  m.impl("conv2d_batch_norm_pool2d_reference", &WithOptions<&conv2d_batch_norm_pool2d_reference>::call);
}

}  // namespace fastvision
