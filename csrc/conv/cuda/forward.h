// Host side of the products over pixels, for conv.cu and backward.cu.
#pragma once

#include "conv/cuda/launch.h"
#include "conv/cuda/layout.cuh"
#include "conv/kernels.h"

namespace fastvision::conv_cuda {

// Can 16 bytes of channels be read at once, wherever a pixel starts?
template <class Element>
bool aligned_channels(const void* data, const ImageStrides& strides, int64_t channels) {
  constexpr int64_t kSize = Vector<Element>::kSize;
  return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0 && strides.c == 1 && channels % kSize == 0 &&
         strides.n % kSize == 0 && strides.h % kSize == 0 && strides.w % kSize == 0;
}

template <class Element>
bool reads_vectors(const PixelGemm& p) {
  return aligned_channels<Element>(p.source.data, p.source_strides, p.taps.inner.size);
}

// The steps from tap to tap and channel to channel in an image with these strides.
inline Walk tap_walk(const ConvPool2d& p, const ImageStrides& strides, int channels) {
  const int dilation_h = static_cast<int>(p.dilation_h), dilation_w = static_cast<int>(p.dilation_w);
  return {{static_cast<int>(p.kernel_h), dilation_h, 0, dilation_h * strides.h},
          {static_cast<int>(p.kernel_w), 0, dilation_w, dilation_w * strides.w},
          {channels, 0, 0, strides.c}};
}

// The epilogue of the forward pass, without its pointers and its tile.
PoolEpilogue pool_epilogue(const ConvPool2d& p);

// Chooses the tile, packs the weight (its pointer and padded_columns are set here) and launches the product.
template <class Math>
const char* run_pixel_gemm(PixelGemm p, const WeightPacking& packing, Context& context);

template <class Math>
const char* forward(const ConvPool2d& p, const ConvPool2dForward& tensors, Context& context);

}  // namespace fastvision::conv_cuda
