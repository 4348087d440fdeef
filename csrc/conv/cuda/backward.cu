// The gradients: the pooled gradient back onto the convolution, then products over pixels and over taps, and sums.
#include "conv/cuda/backward.h"

#include "conv/cuda/forward.h"
#include "conv/cuda/plan.h"
#include "conv/cuda/reduce.cuh"
#include "conv/cuda/unpool.cuh"

namespace fastvision::conv_cuda {
namespace {

// A batch of images with adjacent channels, padded to whole vectors.
struct ChannelsLast {
  const void* data;
  int64_t channels;  // with padding

  ImageStrides strides(int64_t height, int64_t width) const {
    return {height * width * channels, 1, width * channels, channels};
  }
};

bool is_dense(const ImageStrides& strides, const ImageStrides& dense) {
  return strides.n == dense.n && strides.c == dense.c && strides.h == dense.h && strides.w == dense.w;
}

// Copies an image into a workspace, channels last and padded.
template <class Element>
const char* run_relayout(const void* image, const ImageStrides& strides, int64_t batch, int64_t channels,
                         int64_t height, int64_t width, int64_t padded_channels, Context& context,
                         const void*& result) {
  Relayout r{};
  r.from = image;
  r.to = context.allocate(static_cast<size_t>(batch * height * width * padded_channels) * sizeof(Element));
  r.strides = strides;
  r.batch = static_cast<int>(batch);
  r.height = static_cast<int>(height);
  r.width = static_cast<int>(width);
  r.channels = static_cast<int>(channels);
  r.padded_channels = static_cast<int>(padded_channels);
  r.channel_tiles = static_cast<int>(ceil_div(padded_channels, kRelayoutTile));
  result = r.to;
  return launch_grid<relayout<Element>>(ceil_div(height * width, kRelayoutTile) * r.channel_tiles,
                                        std::min<int64_t>(batch, 65535), dim3(kThreads), context.stream(), r);
}

template <class Element>
const char* input_channels_last(const ConvPool2d& p, const void* input, Context& context, ChannelsLast& result) {
  result = {input, p.in_channels};
  if (aligned_channels<Element>(input, p.input_strides, p.in_channels) &&
      is_dense(p.input_strides, result.strides(p.in_h, p.in_w))) {
    return nullptr;
  }
  result.channels = round_up(p.in_channels, Vector<Element>::kSize);
  return run_relayout<Element>(input, p.input_strides, p.batch, p.in_channels, p.in_h, p.in_w, result.channels, context,
                               result.data);
}

// One phase of grad_input, see plan.h.
template <class Math>
const char* grad_input_phase(const ConvPool2d& p, const ConvPool2dBackward& tensors, const ChannelsLast& grad_conv,
                             const Phase& h, const Phase& w, Context& context) {
  const ImageStrides from = grad_conv.strides(p.conv_h, p.conv_w), to = p.input_strides;
  PixelGemm gemm{};
  gemm.source = {grad_conv.data, static_cast<int>(p.conv_h), static_cast<int>(p.conv_w)};
  gemm.source_strides = from;
  gemm.step_h = gemm.step_w = 1;
  gemm.start_h = h.start;
  gemm.start_w = w.start;
  gemm.taps = {{h.taps, h.tap_step, 0, h.tap_step * from.h},
               {w.taps, 0, w.tap_step, w.tap_step * from.w},
               {static_cast<int>(grad_conv.channels), 0, 0, 1}};
  PoolEpilogue& e = gemm.epilogue;
  e.output = static_cast<typename Math::Element*>(tensors.grad_input) + h.first * to.h + w.first * to.w;
  e.strides = {to.n, to.c, to.h * p.stride_h, to.w * p.stride_w};
  e.activation = Activation::none;
  e.pool = Pool::none;
  e.batch = static_cast<int>(p.batch);
  e.out_h = e.conv_h = h.count;
  e.out_w = e.conv_w = w.count;
  e.columns = static_cast<int>(p.in_channels);
  e.kernel_h = e.kernel_w = e.stride_h = e.stride_w = 1;

  WeightPacking packing{};
  packing.weight = tensors.weight;
  packing.taps_h = h.taps;
  packing.taps_w = w.taps;
  packing.first_h = h.first_tap;
  packing.first_w = w.first_tap;
  packing.step_h = h.tap_stride;
  packing.step_w = w.tap_stride;
  packing.kernel_w = static_cast<int>(p.kernel_w);
  packing.depth_channels = static_cast<int>(p.out_channels);
  packing.padded_depth_channels = static_cast<int>(grad_conv.channels);
  packing.columns = static_cast<int>(p.in_channels);
  packing.column_stride = p.kernel_h * p.kernel_w;
  packing.depth_stride = p.in_channels * packing.column_stride;
  return run_pixel_gemm<Math>(gemm, packing, context);
}

template <class Math>
const char* grad_input(const ConvPool2d& p, const ConvPool2dBackward& tensors, const ChannelsLast& grad_conv,
                       Context& context) {
  for (int residue_h = 0; residue_h < p.stride_h; ++residue_h) {
    const Phase h = phase_of(residue_h, static_cast<int>(p.in_h), static_cast<int>(p.kernel_h),
                             static_cast<int>(p.stride_h), static_cast<int>(p.dilation_h), static_cast<int>(p.pad_top));
    for (int residue_w = 0; residue_w < p.stride_w; ++residue_w) {
      const Phase w =
          phase_of(residue_w, static_cast<int>(p.in_w), static_cast<int>(p.kernel_w), static_cast<int>(p.stride_w),
                   static_cast<int>(p.dilation_w), static_cast<int>(p.pad_left));
      if (h.count == 0 || w.count == 0) continue;
      if (const char* error = grad_input_phase<Math>(p, tensors, grad_conv, h, w, context)) return error;
    }
  }
  return nullptr;
}

template <class Math>
const char* grad_weight(const ConvPool2d& p, const ConvPool2dBackward& tensors, const ChannelsLast& grad_conv,
                        Context& context) {
  using Element = typename Math::Element;
  ChannelsLast input{};
  if (const char* error = input_channels_last<Element>(p, tensors.input, context, input)) return error;
  const ImageStrides strides = input.strides(p.in_h, p.in_w);
  const int64_t step_h = p.stride_h, step_w = p.stride_w;

  WeightGemm gemm{};
  gemm.source = {input.data, static_cast<int>(p.in_h), static_cast<int>(p.in_w)};
  gemm.pixels = {{static_cast<int>(p.batch), 0, 0, strides.n},
                 {static_cast<int>(p.conv_h), static_cast<int>(step_h), 0, step_h * strides.h},
                 {static_cast<int>(p.conv_w), 0, static_cast<int>(step_w), step_w * strides.w}};
  gemm.start_h = static_cast<int>(-p.pad_top);
  gemm.start_w = static_cast<int>(-p.pad_left);
  gemm.start_offset = -p.pad_top * strides.h - p.pad_left * strides.w;
  gemm.taps = tap_walk(p, strides, static_cast<int>(input.channels));
  gemm.rows = static_cast<int>(p.kernel_h * p.kernel_w * input.channels);
  gemm.row_tiles = static_cast<int>(ceil_div(gemm.rows, kTileRows));
  gemm.grad_conv = {grad_conv.data, grad_conv.channels};
  gemm.columns = static_cast<int>(p.out_channels);
  gemm.pixel_count = p.batch * p.conv_h * p.conv_w;
  const int64_t tiles = gemm.row_tiles * ceil_div(gemm.columns, weight_tile_columns(gemm.columns));
  const Split split = choose_split(gemm.pixel_count, tiles, kTileDepth<Math>, gpu::current_device().multiprocessors);
  gemm.pixels_per_split = split.depth;
  gemm.parts = static_cast<float*>(
      context.allocate(static_cast<size_t>(split.parts * gemm.rows * gemm.columns) * sizeof(float)));
  if (const char* error = launch_weight_gemm<Math>(gemm, split.parts, context.stream())) return error;

  PartSum sum{};
  sum.parts = gemm.parts;
  sum.sum = tensors.grad_weight;
  sum.part_count = split.parts;
  sum.taps = static_cast<int>(p.kernel_h * p.kernel_w);
  sum.channels = static_cast<int>(p.in_channels);
  sum.padded_channels = static_cast<int>(input.channels);
  sum.columns = gemm.columns;
  return launch_grid<sum_parts<Element>>(static_cast<int64_t>(sum.taps) * sum.channels, ceil_div(sum.columns, kThreads),
                                         dim3(kThreads), context.stream(), sum);
}

template <class Element>
const char* grad_bias(const ConvPool2d& p, void* result, const ChannelsLast& grad_conv, Context& context) {
  ColumnSum sum{};
  sum.matrix = grad_conv.data;
  sum.lines = p.batch * p.conv_h * p.conv_w;
  sum.columns = static_cast<int>(p.out_channels);
  sum.padded_columns = static_cast<int>(grad_conv.channels);
  const int64_t column_tiles = ceil_div(sum.columns, kLanes);
  const Split split = choose_split(sum.lines, column_tiles, kWarps, gpu::current_device().multiprocessors);
  sum.lines_per_part = split.depth;
  sum.parts = static_cast<float*>(context.allocate(static_cast<size_t>(split.parts * sum.columns) * sizeof(float)));
  if (const char* error =
          launch_grid<sum_columns<Element>>(split.parts, column_tiles, dim3(kThreads), context.stream(), sum)) {
    return error;
  }
  PartSum total{};
  total.parts = sum.parts;
  total.sum = result;
  total.part_count = split.parts;
  total.taps = total.channels = total.padded_channels = 1;
  total.columns = sum.columns;
  return launch_grid<sum_parts<Element>>(1, ceil_div(total.columns, kThreads), dim3(kThreads), context.stream(), total);
}

}  // namespace

template <class Element>
const char* unpool_gradient(const ConvPool2d& p, const void* grad_output, const uint8_t* selection, void* grad_conv,
                            int64_t padded_channels, Context& context) {
  const PoolEpilogue e = pool_epilogue(p);
  Unpool u{};
  u.grad_output = grad_output;
  u.grad_output_channels = e.columns;
  if (!is_dense(p.output_strides, ChannelsLast{grad_output, p.out_channels}.strides(p.out_h, p.out_w))) {
    if (const char* error = run_relayout<Element>(grad_output, p.output_strides, p.batch, p.out_channels, p.out_h,
                                                  p.out_w, p.out_channels, context, u.grad_output)) {
      return error;
    }
  }
  u.selection = selection;
  u.grad_conv = grad_conv;
  u.activation = p.activation;
  u.pool = p.pool;
  u.count_include_pad = p.count_include_pad;
  u.pixels = p.batch * p.conv_h * p.conv_w;
  u.conv_h = e.conv_h;
  u.conv_w = e.conv_w;
  u.out_h = e.out_h;
  u.out_w = e.out_w;
  u.channels = e.columns;
  u.padded_channels = static_cast<int>(padded_channels);
  u.kernel_h = e.kernel_h;
  u.kernel_w = e.kernel_w;
  u.stride_h = e.stride_h;
  u.stride_w = e.stride_w;
  u.pad_h = e.pad_h;
  u.pad_w = e.pad_w;
  return launch_grid<unpool<Element>>(ceil_div(u.pixels, kUnpoolPixels), 1, dim3(kUnpoolChannels, kUnpoolPixels),
                                      context.stream(), u);
}

template const char* unpool_gradient<float>(const ConvPool2d&, const void*, const uint8_t*, void*, int64_t, Context&);
template const char* unpool_gradient<__half>(const ConvPool2d&, const void*, const uint8_t*, void*, int64_t, Context&);
template const char* unpool_gradient<__nv_bfloat16>(const ConvPool2d&, const void*, const uint8_t*, void*, int64_t,
                                                    Context&);

template <class Math>
const char* backward(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  using Element = typename Math::Element;
  const int64_t channels = round_up(p.out_channels, Vector<Element>::kSize);
  void* unpooled = context.allocate(static_cast<size_t>(p.batch * p.conv_h * p.conv_w * channels) * sizeof(Element));
  if (const char* error =
          unpool_gradient<Element>(p, tensors.grad_output, tensors.selection, unpooled, channels, context)) {
    return error;
  }
  const ChannelsLast grad_conv{unpooled, channels};
  if (tensors.grad_input != nullptr) {
    if (const char* error = grad_input<Math>(p, tensors, grad_conv, context)) return error;
  }
  if (tensors.grad_weight != nullptr) {
    if (const char* error = grad_weight<Math>(p, tensors, grad_conv, context)) return error;
  }
  return tensors.grad_bias == nullptr ? nullptr : grad_bias<Element>(p, tensors.grad_bias, grad_conv, context);
}

template const char* backward<F32>(const ConvPool2d&, const ConvPool2dBackward&, Context&);
template const char* backward<TF32>(const ConvPool2d&, const ConvPool2dBackward&, Context&);
template const char* backward<F16>(const ConvPool2d&, const ConvPool2dBackward&, Context&);
template const char* backward<BF16>(const ConvPool2d&, const ConvPool2dBackward&, Context&);

}  // namespace fastvision::conv_cuda
