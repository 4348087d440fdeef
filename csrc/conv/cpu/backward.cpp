// The way back: through pool and activation to the convolution's output, from there to its input.
#include "conv/cpu/backward.h"

#include "conv/cpu/depthwise.h"
#include "conv/cpu/forward.h"
#include "conv/cpu/grad_weight.h"
#include "conv/cpu/one_pixel.h"
#include "conv/cpu/planar.h"
#include "conv/cpu/sparse.h"
#include "conv/cpu/winograd.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// The convolution that takes the gradient of the output to that of the input: kernel flipped,
// channels exchanged, padded so that every output that an input took part in reaches it.
ConvPool2d adjoint_problem(const ConvPool2d& p) {
  ConvPool2d a = p;
  a.in_channels = p.out_channels;
  a.out_channels = p.in_channels;
  a.in_h = p.conv_h;
  a.in_w = p.conv_w;
  a.pad_top = (p.kernel_h - 1) * p.dilation_h - p.pad_top;
  a.pad_left = (p.kernel_w - 1) * p.dilation_w - p.pad_left;
  a.conv_h = a.out_h = p.in_h;
  a.conv_w = a.out_w = p.in_w;
  a.activation = Activation::none;
  a.pool = Pool::none;
  a.pool_kernel_h = a.pool_kernel_w = a.pool_stride_h = a.pool_stride_w = 1;
  a.pool_pad_h = a.pool_pad_w = 0;
  a.output_strides = p.input_strides;
  a.channels_last_weight = true;  // as flip_weight() makes it
  return a;
}

// The adjoint's weight, (in, kh, kw, out), with the kernel turned by 180 degrees, group by group.
template <class T>
void flip_weight(const ConvPool2d& p, const T* weight, T* flipped, Context& context) {
  const int64_t in = p.in_channels / p.groups;
  const int64_t out = p.out_channels / p.groups;
  const int64_t window = p.kernel_h * p.kernel_w;
  const int64_t channel_stride = p.channels_last_weight ? 1 : window;
  const int64_t tap_stride = p.channels_last_weight ? in : 1;
  context.parallel_for(p.in_channels, [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      const T* from = weight + channel / in * out * in * window + channel % in * channel_stride;
      for (int64_t tap = 0; tap < window; ++tap) {
        T* to = flipped + (channel * window + window - 1 - tap) * out;
        for (int64_t o = 0; o < out; ++o) to[o] = from[o * in * window + tap * tap_stride];
      }
    }
  });
}

void grad_input(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  const ConvPool2d adjoint = adjoint_problem(p);
  const int64_t weights = p.out_channels * (p.in_channels / p.groups) * p.kernel_h * p.kernel_w;
  void* flipped = context.allocate(weights * size_of(p.dtype));
  visit_dtype(p.dtype, [&]<class T>() {
    flip_weight(p, static_cast<const T*>(tensors.weight), static_cast<T*>(flipped), context);
  });
  const PooledGradient gradient{tensors.grad_output, tensors.selection};
  if (winograd_applies(adjoint) && winograd_is_faster(adjoint)) {
    const WinogradPlan plan = make_winograd_plan(adjoint, kLanes);
    const GradientStrips strips(p, adjoint, plan.direct, gradient);
    run(WinogradConvolution{adjoint, plan, strips, tensors.grad_input, nullptr, Finish(), /*keeps_weights=*/false},
        {flipped, nullptr}, context);
  } else {
    const DirectPlan plan = make_direct_plan(adjoint, kLanes, InputChoice::interleaved_strip);
    const GradientStrips strips(p, adjoint, plan, gradient);
    run(DirectConvolution{adjoint, plan, strips, nullptr, tensors.grad_input, nullptr, Finish()}, {flipped, nullptr},
        context);
  }
}

// Whether stock computes a gradient faster behind which there is no pool. Time of stock / ours, one core of a Zen 3
// (AVX2), batch 1 and 8, gradient of the input and of the weight:
//   3x3 64>64 @56 1.9 and 1.2-1.4, 128>128 @28 1.5-1.8 and 1.1, 16>64 @55 1.3 and 1.3, 3>32 @64 0.6-1.1 and 0.65-0.96
//   256>256 @14 0.9-1.3 and 0.9-1.06, 512>512 @7 0.5-1.3 and 0.8-0.97: weights are turned round for few pixels
//   1x1 0.7-1.0 and 0.2-0.7, with stride 2 0.75 and 1.0
//   others 3x3 stride 2 - 1.2, 5x5 16>32 @28 1.0-1.2 and 1.1-1.2, 64>192 @27 0.9 and 0.95, 9x9 1>64 @64 0.8-0.9 and 5.6
ConvGradients stock_is_faster_without_pool(const ConvPool2d& p) {
  constexpr int64_t kFewPixels = 300;
  const int64_t window = p.kernel_h * p.kernel_w;
  const bool few_pixels = p.batch * p.conv_h * p.conv_w < kFewPixels;
#if defined(CPU_CAPABILITY_AVX512)  // which has only been measured with a pool
  const bool long_way = false;
  const bool many_products = false;
#else
  constexpr int64_t kLongSum = 1200;
  const int64_t channels = p.in_channels / p.groups;
  const ConvPool2d adjoint = adjoint_problem(p);
  const bool long_way = channels < kLanes || !(winograd_applies(adjoint) && winograd_is_faster(adjoint));
  const bool many_products = (channels > 1 && channels < kLanes) || channels * window > kLongSum;
#endif
  return {window == 1 || few_pixels || long_way, window == 1 || many_products};
}

}  // namespace

ConvGradients direct_supported_gradients(const ConvPool2d& p) {
  if (depthwise_applies(p) || makes_one_pixel(p) || planar_replaces_stock(p)) return {false, false};
  // With a stride the adjoint has holes in its input: stock's business so far.
  const bool adjoint_has_kernel = p.stride_h == 1 && p.stride_w == 1;
  const bool sizes_known = p.batch > 0;
  if (p.pool != Pool::none || !sizes_known) return {adjoint_has_kernel, true};
  const ConvGradients stock = stock_is_faster_without_pool(p);
  return {adjoint_has_kernel && !stock.input, !stock.weight};
}

const char* direct_backward(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  const ConvGradients sparse = sparse_is_faster(p);
  if (tensors.grad_input && !(sparse.input && sparse_grad_input(p, tensors, context))) grad_input(p, tensors, context);
  if ((tensors.grad_weight || tensors.grad_bias) && !(sparse.weight && sparse_grad_weight(p, tensors, context))) {
    direct_grad_weight(p, tensors, context);
  }
  return nullptr;
}

const char* direct_unpool(const ConvPool2d& p, const void* grad_output, const uint8_t* selection, void* grad_conv,
                          Context& context) {
  const int64_t row_size = p.conv_w * p.out_channels;
  // A few rows at a time, so that overlapping windows are spread from cache.
  const int64_t band_rows = 4 * p.pool_stride_h;
  const int64_t bands = (p.conv_h + band_rows - 1) / band_rows;
  context.parallel_for(p.batch * bands, [&](int64_t begin, int64_t end) {
    FloatScratch scratch(band_rows * row_size);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / bands;
      const int64_t first = unit % bands * band_rows;
      const int64_t rows = std::min(band_rows, p.conv_h - first);
      std::fill_n(scratch.data(), rows * row_size, 0.f);
      unpool(p, {grad_output, selection}, image,
             {scratch.data(), first, rows, 0, p.conv_w, 0, p.out_channels, row_size, p.out_channels});
      visit_dtype(p.dtype, [&]<class T>() {
        convert_row(scratch.data(), static_cast<T*>(grad_conv) + (image * p.conv_h + first) * row_size,
                    rows * row_size);
      });
    }
  });
  return nullptr;
}

}  // namespace fastvision
