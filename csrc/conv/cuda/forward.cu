// The forward pass, and what it shares with the gradients: tiles, packed weights, the launch of a product over pixels.
#include "conv/cuda/forward.h"

#include "conv/cuda/layout.cuh"
#include "conv/cuda/plan.h"

namespace fastvision::conv_cuda {

PoolEpilogue pool_epilogue(const ConvPool2d& p) {
  PoolEpilogue e{};
  e.strides = p.output_strides;
  e.activation = p.activation;
  e.pool = p.pool;
  e.count_include_pad = p.count_include_pad;
  e.batch = static_cast<int>(p.batch);
  e.out_h = static_cast<int>(p.out_h);
  e.out_w = static_cast<int>(p.out_w);
  e.columns = static_cast<int>(p.out_channels);
  e.conv_h = static_cast<int>(p.conv_h);
  e.conv_w = static_cast<int>(p.conv_w);
  e.kernel_h = static_cast<int>(p.pool_kernel_h);
  e.kernel_w = static_cast<int>(p.pool_kernel_w);
  e.stride_h = static_cast<int>(p.pool_stride_h);
  e.stride_w = static_cast<int>(p.pool_stride_w);
  e.pad_h = static_cast<int>(p.pool_pad_h);
  e.pad_w = static_cast<int>(p.pool_pad_w);
  return e;
}

template <class Math>
const char* run_pixel_gemm(PixelGemm p, const WeightPacking& packing, Context& context) {
  using Element = typename Math::Element;
  PoolEpilogue& e = p.epilogue;
  if (e.batch == 0 || e.columns == 0) return nullptr;
  e.tile = choose_tile(e);
  e.patches_h = static_cast<int>(ceil_div(e.out_h, e.tile.out_h));
  e.patches_w = static_cast<int>(ceil_div(e.out_w, e.tile.out_w));
  const int64_t row_tiles = ceil_div(int64_t{e.batch} * e.patches_h * e.patches_w, e.tile.patches);

  WeightPacking w = packing;
  w.padded_columns = static_cast<int>(round_up(w.columns, Vector<Element>::kSize));
  p.depth = w.taps_h * w.taps_w * w.padded_depth_channels;
  if (p.depth > 0) {
    w.packed = context.allocate(static_cast<size_t>(p.depth) * w.padded_columns * sizeof(Element));
    if (const char* error = launch_grid<pack_weight<Element>>(p.depth, 1, dim3(kThreads), context.stream(), w)) {
      return error;
    }
  }
  p.weight = {w.packed, w.padded_columns};
  return launch_pixel_gemm<Math>(p, row_tiles, reads_vectors<Element>(p), gpu::current_device().multiprocessors,
                                 context.stream());
}

template const char* run_pixel_gemm<F32>(PixelGemm, const WeightPacking&, Context&);
template const char* run_pixel_gemm<TF32>(PixelGemm, const WeightPacking&, Context&);
template const char* run_pixel_gemm<F16>(PixelGemm, const WeightPacking&, Context&);
template const char* run_pixel_gemm<BF16>(PixelGemm, const WeightPacking&, Context&);

template <class Math>
const char* forward(const ConvPool2d& p, const ConvPool2dForward& tensors, Context& context) {
  PixelGemm gemm{};
  gemm.source = {tensors.input, static_cast<int>(p.in_h), static_cast<int>(p.in_w)};
  gemm.source_strides = p.input_strides;
  gemm.step_h = static_cast<int>(p.stride_h);
  gemm.step_w = static_cast<int>(p.stride_w);
  gemm.start_h = static_cast<int>(-p.pad_top);
  gemm.start_w = static_cast<int>(-p.pad_left);
  gemm.taps = tap_walk(p, p.input_strides, static_cast<int>(p.in_channels));
  gemm.epilogue = pool_epilogue(p);
  gemm.epilogue.output = tensors.output;
  gemm.epilogue.bias = tensors.bias;
  gemm.epilogue.selection = tensors.selection;

  WeightPacking packing{};
  packing.weight = tensors.weight;
  packing.taps_h = static_cast<int>(p.kernel_h);
  packing.taps_w = packing.kernel_w = static_cast<int>(p.kernel_w);
  packing.step_h = packing.step_w = 1;
  packing.depth_channels = packing.padded_depth_channels = static_cast<int>(p.in_channels);
  packing.columns = static_cast<int>(p.out_channels);
  packing.depth_stride = p.kernel_h * p.kernel_w;
  packing.column_stride = p.in_channels * packing.depth_stride;
  return run_pixel_gemm<Math>(gemm, packing, context);
}

template const char* forward<F32>(const ConvPool2d&, const ConvPool2dForward&, Context&);
template const char* forward<TF32>(const ConvPool2d&, const ConvPool2dForward&, Context&);
template const char* forward<F16>(const ConvPool2d&, const ConvPool2dForward&, Context&);
template const char* forward<BF16>(const ConvPool2d&, const ConvPool2dForward&, Context&);

}  // namespace fastvision::conv_cuda
