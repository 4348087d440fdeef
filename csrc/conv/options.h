// The options of the conv operators, as their schemas list them, and what follows from them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/util/ArrayRef.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "conv/conv.h"
#include "core/activation.h"

namespace fastvision {

using Pair = std::array<int64_t, 2>;

struct ConvPool2dOptions {
  Pair stride, dilation;
  std::array<int64_t, 4> padding;  // top, bottom, left, right
  int64_t groups;
  Activation activation;
  Pool pool;
  Pair pool_kernel_size, pool_stride, pool_padding;
  bool ceil_mode, count_include_pad;

  // Arguments in schema order; raises on values that stock PyTorch would refuse.
  ConvPool2dOptions(at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                    std::string_view activation, std::string_view pool, at::IntArrayRef pool_kernel_size,
                    at::IntArrayRef pool_stride, at::IntArrayRef pool_padding, bool ceil_mode, bool count_include_pad);

  static ConvPool2dOptions from(at::ArrayRef<c10::IValue> arguments);

  // Those of the convolution, followed by nothing.
  ConvPool2dOptions without_epilogue() const;

  // The way through autograd's saved_data.
  std::vector<int64_t> pack() const;
  static ConvPool2dOptions unpack(const std::vector<int64_t>& packed);

  std::string_view activation_name() const { return name_of(activation); }
  std::string_view pool_name() const { return pool == Pool::none ? "none" : pool == Pool::max ? "max" : "avg"; }

 private:
  ConvPool2dOptions() = default;
};

// What every schema of the family lists after its tensors.
inline const std::string kConvPool2dOptionsSchema =
    "int[2] stride=1, int[2] padding=0, int[2] dilation=1, int groups=1, str activation=\"relu\", str pool=\"max\", "
    "int[2] pool_kernel_size=2, int[2] pool_stride=[], int[2] pool_padding=0, bool ceil_mode=False, "
    "bool count_include_pad=True";

// Gives a function of (options, tensors...) the parameter list of its schema, (tensors..., options one by one).
template <auto Function>
struct WithOptions;

template <class Result, class... Tensors, Result (*Function)(const ConvPool2dOptions&, Tensors...)>
struct WithOptions<Function> {
  static Result call(Tensors... tensors, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     int64_t groups, std::string_view activation, std::string_view pool,
                     at::IntArrayRef pool_kernel_size, at::IntArrayRef pool_stride, at::IntArrayRef pool_padding,
                     bool ceil_mode, bool count_include_pad) {
    return Function({stride, padding, dilation, groups, activation, pool, pool_kernel_size, pool_stride, pool_padding,
                     ceil_mode, count_include_pad},
                    std::forward<Tensors>(tensors)...);
  }
};

// The reverse: calls `call(tensors..., options one by one)`.
template <class Call, class... Tensors>
decltype(auto) with_flat_options(const ConvPool2dOptions& o, Call&& call, const Tensors&... tensors) {
  return call(tensors..., o.stride, o.padding, o.dilation, o.groups, o.activation_name(), o.pool_name(),
              o.pool_kernel_size, o.pool_stride, o.pool_padding, o.ceil_mode, o.count_include_pad);
}

// Sizes of the convolution's output and of the pooled output, for concrete and symbolic sizes alike.
template <class Int>
struct ConvPool2dShape {
  Int conv_h, conv_w, out_h, out_w;
};

// Zero or less where not even one window fits.
template <class Int>
Int pooled_size(Int size, int64_t kernel, int64_t stride, int64_t pad, bool ceil_mode) {
  const Int span = size + 2 * pad - kernel;
  // The divisions round down for every result that counts: their dividend is negative only if the result is too.
  if (!ceil_mode) return (span + stride) / stride;
  const Int count = (span + 2 * stride - 1) / stride;
  // As ATen: the last window must start inside the image or its left padding.
  return (count - 1) * stride >= size + pad ? count - 1 : count;
}

template <class Int>
ConvPool2dShape<Int> output_shape(const ConvPool2dOptions& o, const Int& in_h, const Int& in_w, const Int& kernel_h,
                                  const Int& kernel_w) {
  const auto conv_size = [](const Int& in, const Int& kernel, int64_t pad, int64_t stride, int64_t dilation) {
    return (in + pad - (kernel - 1) * dilation - 1) / stride + 1;
  };
  const Int conv_h = conv_size(in_h, kernel_h, o.padding[0] + o.padding[1], o.stride[0], o.dilation[0]);
  const Int conv_w = conv_size(in_w, kernel_w, o.padding[2] + o.padding[3], o.stride[1], o.dilation[1]);
  if (o.pool == Pool::none) return {conv_h, conv_w, conv_h, conv_w};
  return {
      conv_h,
      conv_w,
      pooled_size(conv_h, o.pool_kernel_size[0], o.pool_stride[0], o.pool_padding[0], o.ceil_mode),
      pooled_size(conv_w, o.pool_kernel_size[1], o.pool_stride[1], o.pool_padding[1], o.ceil_mode),
  };
}

// Raises what stock PyTorch raises for tensors that don't fit each other, naming the argument.
void check_tensors(const ConvPool2dOptions& options, const at::Tensor& input, const at::Tensor& weight,
                   const std::optional<at::Tensor>& bias);

// channels_last if the input or the weight is, as stock conv2d decides.
at::MemoryFormat output_memory_format(const at::Tensor& input, const at::Tensor& weight);

// The result for an unbatched input, from that for a batch of one. Stock's pools make it contiguous.
at::Tensor without_batch(const ConvPool2dOptions& options, const at::Tensor& output);

}  // namespace fastvision
