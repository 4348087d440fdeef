// The operators on CPU and CUDA tensors: check, describe the problem, allocate, call the kernel library.
#include "conv/op.h"

#include <ATen/Context.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "conv/kernels.h"
#include "conv/reference.h"
#include "core/direct.h"
#include "core/memory.h"
#include "core/symbolic.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

const ConvKernels* kernels_for(c10::Device device) {
  return kernels_of(device, &KernelLibrary::conv);
}

// What is known of the problem without the input's sizes.
ConvPool2d describe_layer(const ConvPool2dOptions& o, DType dtype, at::IntArrayRef weight) {
  ConvPool2d p;
  p.dtype = dtype;
  p.out_channels = weight[0];
  p.in_channels = weight[1] * o.groups;
  p.kernel_h = weight[2];
  p.kernel_w = weight[3];
  p.stride_h = o.stride[0];
  p.stride_w = o.stride[1];
  p.pad_top = o.padding[0];
  p.pad_left = o.padding[2];
  p.dilation_h = o.dilation[0];
  p.dilation_w = o.dilation[1];
  p.groups = o.groups;
  p.activation = o.activation;
  p.pool = o.pool;
  p.pool_kernel_h = o.pool_kernel_size[0];
  p.pool_kernel_w = o.pool_kernel_size[1];
  p.pool_stride_h = o.pool_stride[0];
  p.pool_stride_w = o.pool_stride[1];
  p.pool_pad_h = o.pool_padding[0];
  p.pool_pad_w = o.pool_padding[1];
  p.count_include_pad = o.count_include_pad;
  return p;
}

ImageStrides strides_of(int64_t channels, int64_t height, int64_t width, at::MemoryFormat format) {
  const int64_t image = channels * height * width;
  if (format == at::MemoryFormat::ChannelsLast) return {image, 1, width * channels, channels};
  return {image, height * width, width, 1};
}

ConvPool2d describe(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, at::MemoryFormat format) {
  ConvPool2d p = describe_layer(o, *kernel_dtype(input.scalar_type()), weight.sizes());
  p.batch = input.dim() == 4 ? input.size(0) : 1;
  p.in_h = input.size(-2);
  p.in_w = input.size(-1);
  const auto shape = output_shape<int64_t>(o, p.in_h, p.in_w, p.kernel_h, p.kernel_w);
  p.conv_h = shape.conv_h;
  p.conv_w = shape.conv_w;
  p.out_h = shape.out_h;
  p.out_w = shape.out_w;
  p.input_strides = strides_of(p.in_channels, p.in_h, p.in_w, format);
  p.output_strides = strides_of(p.out_channels, p.out_h, p.out_w, format);
  p.channels_last_weight = kernels_for(input.device())->reads_channels_last_weight &&
                           weight.is_contiguous(at::MemoryFormat::ChannelsLast) && !weight.is_contiguous();
  p.allow_winograd = winograd_allowed();
  p.allow_tf32 = input.is_cuda() && at::globalContext().allowTF32CuDNN();
  return p;
}

// The weight in memory as the problem says.
Tensor dense_weight(const ConvPool2d& p, const Tensor& weight) {
  return weight.contiguous(p.channels_last_weight ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

std::vector<int64_t> output_sizes(const ConvPool2d& p) {
  return {p.batch, p.out_channels, p.out_h, p.out_w};
}

std::vector<int64_t> selection_sizes(const ConvPool2d& p) {
  return {needs_selection(p) ? p.batch : 0, p.out_h, p.out_w, p.out_channels};
}

// Do the products of sizes that a kernel forms fit 64 bits? If not, stock is to say that it has no memory.
bool sizes_fit(const ConvPool2dOptions& o, const ConvPool2d& p) {
  const auto fits = [](std::initializer_list<int64_t> factors) {
    int64_t product = sizeof(double);
    for (const int64_t factor : factors) {
      if (__builtin_mul_overflow(product, factor, &product)) return false;
    }
    return true;
  };
  const int64_t padded_h = p.in_h + o.padding[0] + o.padding[1];
  const int64_t padded_w = p.in_w + o.padding[2] + o.padding[3];
  return fits({p.batch, p.in_channels, padded_h, padded_w}) &&
         fits({p.batch, p.conv_h, p.conv_w, p.out_channels, p.in_channels, p.kernel_h, p.kernel_w});
}

// The problem, if a kernel can run it and should. Training needs a selection that fits its byte.
std::optional<ConvPool2d> for_library(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                      bool training) {
  const ConvKernels* kernels = kernels_for(input.device());
  const auto dtype = kernel_dtype(input.scalar_type());
  if (!kernels || !dtype || is_symbolic(weight) || weight.numel() == 0) return std::nullopt;
  const bool known = !is_symbolic(input);
  const ConvPool2d p = known ? describe(o, input, weight, output_memory_format(input, weight))
                             : describe_layer(o, *dtype, weight.sizes());
  if (known && (input.numel() == 0 || !sizes_fit(o, p))) return std::nullopt;
  const bool any_activation = kernels->has_all_activations && !training && p.pool == Pool::none;
  if (!any_activation && !is_relu_or_none(p.activation)) return std::nullopt;
  return (!training || selection_fits(p)) && kernels->supports(p) ? std::optional(p) : std::nullopt;
}

void check_status(const char* error) {
  TORCH_CHECK(!error, "fastvision::conv2d_pool2d: ", error);
}

// `selection` is undefined in inference, `scale` where there is none.
Tensor run_forward(const ConvPool2d& p, at::MemoryFormat format, const Tensor& input, const Tensor& weight,
                   const OptionalTensor& bias, const Tensor& selection, const Tensor& scale = {}) {
  const c10::DeviceGuard guard(input.device());
  const Tensor x = input.contiguous(format);
  const Tensor w = dense_weight(p, weight);
  const Tensor b = bias && bias->defined() ? bias->contiguous() : Tensor();
  Tensor output = empty_result(output_sizes(p), input.options(), format);
  TorchContext context(input.device());
  check_status(
      kernels_for(input.device())
          ->forward(p,
                    {x.const_data_ptr(), w.const_data_ptr(), b.defined() ? b.const_data_ptr() : nullptr,
                     output.mutable_data_ptr(),
                     selection.defined() && selection.numel() ? selection.mutable_data_ptr<uint8_t>() : nullptr,
                     scale.defined() ? scale.const_data_ptr<float>() : nullptr},
                    context));
  return output;
}

Tensor conv2d_pool2d(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                     const OptionalTensor& bias) {
  check_tensors(o, input, weight, bias);
  const bool batched = input.dim() == 4;
  const Tensor images = batched ? input : input.unsqueeze(0);
  const auto problem = conv2d_pool2d_for_kernel(o, images, weight, /*training=*/false);
  if (!problem) return conv2d_pool2d_by_stock(o, input, weight, bias);
  const Tensor output = conv2d_pool2d_by_kernel(*problem, images, weight, bias, Tensor());
  return batched ? output : without_batch(o, output);
}

// The operators of training are called by autograd, which has asked for a kernel, or by hand. What began with
// kernels ends with kernels: fastvision.backends.enabled does not come between forward and backward.
void check_training(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, const OptionalTensor& bias) {
  check_tensors(o, input, weight, bias);
  TORCH_CHECK(input.dim() == 4, "fastvision::conv2d_pool2d: input: expected 4 dimensions, got ", input.dim());
  TORCH_CHECK(
      for_library(o, input, weight, /*training=*/true),
      "fastvision::conv2d_pool2d: no kernel for these arguments; expected the call of conv2d_pool2d, which runs "
      "the reference");
}

std::tuple<Tensor, Tensor> conv2d_pool2d_with_selection(const ConvPool2dOptions& o, const Tensor& input,
                                                        const Tensor& weight, const OptionalTensor& bias) {
  check_training(o, input, weight, bias);
  const auto format = output_memory_format(input, weight);
  const ConvPool2d p = describe(o, input, weight, format);
  Tensor selection = empty_result(selection_sizes(p), input.options().dtype(at::kByte), at::MemoryFormat::Contiguous);
  Tensor output = run_forward(p, format, input, weight, bias, selection);
  return {output, selection};
}

// The gradients in `mask` by stock PyTorch, from the gradient of the convolution's output.
std::tuple<Tensor, Tensor, Tensor> stock_backward(const ConvPool2dOptions& o, const Tensor& grad_conv,
                                                  const Tensor& input, const Tensor& weight, std::array<bool, 3> mask) {
  const auto& [top, bottom, left, right] = o.padding;
  const bool symmetric = top == bottom && left == right;
  const Tensor padded = symmetric ? input : at::constant_pad_nd(input, {left, right, top, bottom});
  const Pair padding = symmetric ? Pair{top, left} : Pair{0, 0};
  const Pair output_padding{0, 0};
  auto [grad_input, grad_weight, grad_bias] =
      at::convolution_backward(grad_conv, padded, weight, at::IntArrayRef{weight.size(0)}, o.stride, padding,
                               o.dilation, /*transposed=*/false, output_padding, o.groups, mask);
  if (mask[0] && !symmetric) {
    grad_input = grad_input.narrow(2, top, input.size(2)).narrow(3, left, input.size(3));
  }
  return {grad_input, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor, Tensor> conv2d_pool2d_backward(const ConvPool2dOptions& o, const Tensor& grad_output,
                                                          const Tensor& selection, const Tensor& input,
                                                          const Tensor& weight, std::array<bool, 3> mask) {
  check_training(o, input, weight, std::nullopt);
  const auto format = output_memory_format(input, weight);
  const ConvPool2d p = describe(o, input, weight, format);
  TORCH_CHECK(grad_output.sizes() == output_sizes(p) && grad_output.scalar_type() == input.scalar_type() &&
                  grad_output.device() == input.device(),
              "fastvision::conv2d_pool2d_backward: grad_output: expected shape ", at::IntArrayRef(output_sizes(p)),
              " and dtype ", input.scalar_type(), " on ", input.device(), ", got ", grad_output.sizes(), " ",
              grad_output.scalar_type(), " on ", grad_output.device());
  TORCH_CHECK(selection.sizes() == selection_sizes(p) && selection.scalar_type() == at::kByte &&
                  selection.is_contiguous() && selection.device() == input.device(),
              "fastvision::conv2d_pool2d_backward: selection: expected the result of conv2d_pool2d_with_selection, "
              "shape ",
              at::IntArrayRef(selection_sizes(p)), ", got ", selection.sizes(), " ", selection.scalar_type());

  const c10::DeviceGuard guard(input.device());
  const ConvKernels& kernels = *kernels_for(input.device());
  const ConvGradients own = kernels.supported_gradients(p);
  const Tensor g = grad_output.contiguous(format);
  const Tensor x = input.contiguous(format);
  const Tensor w = dense_weight(p, weight);
  const uint8_t* chosen = selection.numel() ? selection.const_data_ptr<uint8_t>() : nullptr;
  TorchContext context(input.device());

  // The bias' gradient is a by-product of the weight's: whoever makes one makes both.
  const auto empty_if = [&](bool wanted, at::IntArrayRef sizes, at::MemoryFormat f) {
    return wanted ? empty_result(sizes, input.options(), f) : at::empty({0}, input.options());
  };
  const std::array<bool, 3> own_mask{mask[0] && own.input, mask[1] && own.weight, mask[2] && own.weight};
  Tensor grad_input = empty_if(own_mask[0], x.sizes(), format);
  Tensor grad_weight = empty_if(own_mask[1], w.sizes(), at::MemoryFormat::Contiguous);
  Tensor grad_bias = empty_if(own_mask[2], {p.out_channels}, at::MemoryFormat::Contiguous);
  if (own_mask[0] || own_mask[1] || own_mask[2]) {
    const auto data = [](bool wanted, const Tensor& t) { return wanted ? t.mutable_data_ptr() : nullptr; };
    check_status(
        kernels.backward(p,
                         {g.const_data_ptr(), chosen, x.const_data_ptr(), w.const_data_ptr(),
                          data(own_mask[0], grad_input), data(own_mask[1], grad_weight), data(own_mask[2], grad_bias)},
                         context));
  }

  const std::array<bool, 3> stock_mask{mask[0] && !own.input, mask[1] && !own.weight, mask[2] && !own.weight};
  if (stock_mask[0] || stock_mask[1] || stock_mask[2]) {
    Tensor grad_conv = g;
    if (p.activation != Activation::none || p.pool != Pool::none) {
      grad_conv =
          empty_result({p.batch, p.out_channels, p.conv_h, p.conv_w}, input.options(), at::MemoryFormat::ChannelsLast);
      check_status(kernels.unpool(p, g.const_data_ptr(), chosen, grad_conv.mutable_data_ptr(), context));
    }
    auto [stock_input, stock_weight, stock_bias] = stock_backward(o, grad_conv, x, w, stock_mask);
    if (stock_mask[0]) grad_input = stock_input.contiguous(format);
    if (stock_mask[1]) grad_weight = stock_weight.contiguous();
    if (stock_mask[2]) grad_bias = stock_bias;
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

std::optional<ConvPool2d> conv2d_pool2d_for_kernel(const ConvPool2dOptions& o, const Tensor& input,
                                                   const Tensor& weight, bool training) {
  if (!kernels_enabled()) return std::nullopt;
  const auto problem = for_library(o, input, weight, training);
  if (!problem || !training) return problem;
  // Behind a forward of ours stock's gradients start with a pass of their own.
  const ConvGradients own = kernels_for(input.device())->supported_gradients(*problem);
  return own.input || own.weight ? problem : std::nullopt;
}

Tensor conv2d_pool2d_by_kernel(const ConvPool2d& problem, const Tensor& input, const Tensor& weight,
                               const OptionalTensor& bias, const Tensor& scale) {
  return run_forward(problem, output_memory_format(input, weight), input, weight, bias, Tensor(), scale);
}

bool scales_weights(const Tensor& weight) {
  const ConvKernels* kernels = kernels_for(weight.device());
  return kernels && kernels->scales_float_weights && weight.scalar_type() == at::kFloat;
}

const bool kHasDirectKernel = add_direct_kernel("fastvision::conv2d_pool2d", [](at::ArrayRef<c10::IValue> options) {
  return DirectKernel([o = ConvPool2dOptions::from(options)](c10::Stack& stack) {
    set_results(stack, conv2d_pool2d(o, stack[0].toTensor(), stack[1].toTensor(), stack[2].toOptional<Tensor>()));
  });
});

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d>::call);
  m.impl("conv2d_pool2d_with_selection", &WithOptions<&conv2d_pool2d_with_selection>::call);
  m.impl("conv2d_pool2d_backward", &WithOptions<&conv2d_pool2d_backward>::call);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d>::call);
  m.impl("conv2d_pool2d_with_selection", &WithOptions<&conv2d_pool2d_with_selection>::call);
  m.impl("conv2d_pool2d_backward", &WithOptions<&conv2d_pool2d_backward>::call);
}

}  // namespace fastvision
