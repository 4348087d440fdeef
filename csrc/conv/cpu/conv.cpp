#include "conv/cpu/conv.h"

#include "conv/cpu/backward.h"
#include "conv/cpu/depthwise.h"
#include "conv/cpu/forward.h"
#include "conv/cpu/one_pixel.h"
#include "conv/cpu/planar.h"
#include "conv/cpu/pointwise.h"
#include "conv/cpu/winograd.h"
#include "conv/cpu/winograd_planes.h"
#include "core/processor.h"
#include "core/simd.h"

namespace fastvision {
namespace {

enum class Algorithm : uint8_t { stock, direct, depthwise, one_pixel, planar, pointwise, winograd, winograd_planes };

// Fewer output channels per group leave most of a vector idle: such grouped convolution is stock's, where no kernel is
// made for it.
constexpr int64_t kMinGroupChannels = 8;

// Products of one output.
int64_t taps(const ConvPool2d& p) {
  return p.in_channels / p.groups * p.kernel_h * p.kernel_w;
}

// What oneDNN's tiles compute is rubbish where a stride leaves a single column (torch 2.13).
bool stock_is_wrong(const ConvPool2d& p) {
  return p.dtype == DType::bf16 && processor_has_bf16_tiles() && p.stride_w > 1 && p.conv_w == 1;
}

// Where stock is faster than the direct kernel, or equal. Time of stock / ours, one core of a Zen 5 with AVX-512:
//   16>8 @56 1x1 0.68-0.80, 3>8 @112 3x3 0.89-0.95: idle lanes, and no pool to save the memory traffic
//   channels_last, batch 8, 3x3: 256>256 @14 0.96, 192>384 @13 0.97, 512>512 @7 0.94; with a pool 512>512 @14 0.97:
//     stock keeps a part of a long sum's weights in L1 for many pixels
//   contiguous, batch 8, 3x3: 512>512 @7 0.95, @14 0.99; 256>256 @14 is ours, 1.03
//   the same on a Zen 4: 5x5 128>192 @14 0.86; few pixels for each of the weights, 3x3/2 256>512 @14 0.91
// At batch 1 and in everything with fewer taps, ours wins.
bool stock_is_faster(const ConvPool2d& p) {
  if (stock_is_wrong(p)) return false;
  const bool no_pool = p.pool == Pool::none;
  constexpr int64_t kFewChannels = 16;
  if (no_pool && p.out_channels / p.groups < kFewChannels) return true;
  constexpr int64_t kLongSum = 1700, kLongestSum = 3000, kFewPixels = 64;
  const bool channels_last = p.input_strides.c == 1;
  const bool ours_is_slow = no_pool && (channels_last || p.conv_h * p.conv_w <= kFewPixels);
  return p.batch > 1 && taps(p) >= (ours_is_slow ? kLongSum : kLongestSum) && (no_pool || channels_last);
}

Algorithm choose(const ConvPool2d& p) {
  const bool enough_channels = p.groups == 1 || p.out_channels / p.groups >= kMinGroupChannels;
  const bool window_fits = p.pool_kernel_h * p.pool_kernel_w <= kMaxSelectableMaxWindow;
  const bool sizes_known = p.batch > 0;
  if (sizes_known && depthwise_applies(p)) return Algorithm::depthwise;
  if (sizes_known && makes_one_pixel(p)) return one_pixel_is_faster(p) ? Algorithm::one_pixel : Algorithm::stock;
  if (planar_replaces_stock(p) || planar_is_faster(p)) return Algorithm::planar;
  if (!enough_channels || !window_fits) return Algorithm::stock;
  if (!sizes_known) return Algorithm::direct;
  if (winograd_planes_applies(p)) return Algorithm::winograd_planes;
  if (winograd_applies(p) && winograd_is_faster(p)) return Algorithm::winograd;
  if (pointwise_applies(p) && p.out_channels >= kMinGroupChannels) return Algorithm::pointwise;
  return stock_is_faster(p) ? Algorithm::stock : Algorithm::direct;
}

// Where stock is faster on some processors. Emerald Rapids, time of stock / ours, 3x3:
//   bfloat16 by tiles: contiguous 128>128 @28 with a pool 1.2, 64>64 @28 without 1.1, 128>256 @56 0.6; channels_last,
//     for which stock need not copy, 16>32 @56 with a pool 1.7, without 0.9, 32>64 0.9 and 0.5
//   1x1 from planes, where MKL has AVX-512: 64>64 @56 1.04, 256>64 0.9
bool stock_is_faster_here(const ConvPool2d& p) {
  if (stock_is_wrong(p)) return false;
  const bool no_pool = p.pool == Pool::none;
  const bool channels_last = p.input_strides.c == 1;
  if (p.dtype == DType::bf16 && processor_has_bf16_tiles()) {
    const int64_t most_taps = channels_last ? (no_pool ? 20 : 200) : (no_pool ? 600 : 1200);
    if (taps(p) > most_taps) return true;
  }
  constexpr int64_t kManyPlanes = 192;
  return stock_multiplies_by_avx512() && no_pool && !channels_last && pointwise_applies(p) &&
         p.in_channels >= kManyPlanes;
}

bool supports(const ConvPool2d& p) {
  const bool sizes_known = p.batch > 0;
  return choose(p) != Algorithm::stock && !(sizes_known && stock_is_faster_here(p));
}

void forward_direct(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const DirectPlan plan = make_direct_plan(p, kLanes);
  const ImageStrips strips(p, plan, tensors.input);
  run(DirectConvolution{p, plan, strips, tensors.input, tensors.output, tensors.selection, finish},
      {tensors.weight, tensors.bias, tensors.scale}, context);
}

void forward_winograd(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const WinogradPlan plan = make_winograd_plan(p, kLanes);
  const ImageStrips strips(p, plan.direct, tensors.input);
  run(WinogradConvolution{p, plan, strips, tensors.output, tensors.selection, finish,
                          /*keeps_weights=*/!tensors.selection},
      {tensors.weight, tensors.bias, tensors.scale}, context);
}

// What is left of the activation for after the kernel, which does the problem's in registers.
Finish split_activation(Algorithm algorithm, ConvPool2d& p) {
  const bool clamps_to_six = algorithm == Algorithm::depthwise || algorithm == Algorithm::pointwise;
  if (is_relu_or_none(p.activation) || (clamps_to_six && p.activation == Activation::relu6)) return {};
  const Finish finish(p.dtype, p.activation);
  p.activation = Activation::none;
  return finish;
}

// Runs the direct kernel where stock is faster: compiled code may have asked before the sizes were known.
const char* forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, Context& context) {
  ConvPool2d p = problem;
  Algorithm algorithm = choose(p);
  const bool keeps_no_selection = algorithm == Algorithm::depthwise || algorithm == Algorithm::one_pixel ||
                                  algorithm == Algorithm::planar || algorithm == Algorithm::pointwise;
  if (tensors.selection && keeps_no_selection) algorithm = Algorithm::direct;
  const Finish finish = split_activation(algorithm, p);
  switch (algorithm) {
    case Algorithm::winograd_planes:
      winograd_planes_forward(p, tensors, context);
      break;
    case Algorithm::winograd:
      forward_winograd(p, tensors, finish, context);
      break;
    case Algorithm::depthwise:
      depthwise_forward(p, tensors, finish, context);
      break;
    case Algorithm::one_pixel:
      one_pixel_forward(p, tensors, finish, context);
      break;
    case Algorithm::planar:
      planar_forward(p, tensors, finish, context);
      break;
    case Algorithm::pointwise:
      pointwise_forward(p, tensors, finish, context);
      break;
    default:
      forward_direct(p, tensors, finish, context);
  }
  return nullptr;
}

}  // namespace

const ConvKernels* conv_cpu_kernels() {
  static const ConvKernels kernels{
      .supports = &supports,
      .supported_gradients = &direct_supported_gradients,
      .forward = &forward,
      .backward = &direct_backward,
      .unpool = &direct_unpool,
      .reads_channels_last_weight = true,
      .scales_float_weights = true,
      .has_all_activations = true,
  };
  return &kernels;
}

}  // namespace fastvision
