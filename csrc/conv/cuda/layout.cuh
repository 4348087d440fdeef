// The kernels that lay weights and images out as the products read them.
#pragma once

#include "conv/cuda/tile.cuh"

namespace fastvision::conv_cuda {

// (out, in, kernel row, kernel column) to the (depth, columns) matrix of a product: the taps of one
// progression per axis, then channels, padded with zeros.
struct WeightPacking {
  const void* weight;
  void* packed;
  int taps_h, taps_w, first_h, first_w, step_h, step_w, kernel_w;
  int depth_channels, padded_depth_channels;
  int columns, padded_columns;
  int64_t depth_stride, column_stride;  // of the channels in the weight
};

// Grid: one block of threads per line of the matrix.
template <class Element>
__global__ void __launch_bounds__(kThreads) pack_weight(const WeightPacking p) {
  const int channel = static_cast<int>(blockIdx.x % p.padded_depth_channels);
  const int tap = static_cast<int>(blockIdx.x / p.padded_depth_channels);
  const int h = p.first_h + tap / p.taps_w * p.step_h, w = p.first_w + tap % p.taps_w * p.step_w;
  const int64_t from = channel * p.depth_stride + h * p.kernel_w + w;
  Element* line = static_cast<Element*>(p.packed) + static_cast<int64_t>(blockIdx.x) * p.padded_columns;
  for (int column = static_cast<int>(threadIdx.x); column < p.padded_columns; column += kThreads) {
    const bool exists = channel < p.depth_channels && column < p.columns;
    line[column] = exists ? static_cast<const Element*>(p.weight)[from + column * p.column_stride]
                          : gpu::from_float<Element>(0.0f);
  }
}

// An image batch of any strides to dense (batch, row, column, channel), channels padded with zeros.
struct Relayout {
  const void* from;
  void* to;
  ImageStrides strides;
  int batch, height, width, channels, padded_channels;
  int channel_tiles;
};

constexpr int kRelayoutTile = kLanes;

// Grid: (tiles of 32 pixels x tiles of 32 channels, images or fewer). Reads pixel by pixel, writes channel by channel.
template <class Element>
__global__ void __launch_bounds__(kThreads) relayout(const Relayout p) {
  using Tile = Element[kRelayoutTile][kRelayoutTile + 1];
  GPU_SHARED(Tile, tile);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int first_channel = static_cast<int>(blockIdx.x % p.channel_tiles) * kRelayoutTile;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x / p.channel_tiles) * kRelayoutTile;
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  for (int64_t image = blockIdx.y; image < p.batch; image += gridDim.y) {
    for (int i = warp; i < kRelayoutTile; i += kWarps) {
      const int64_t pixel = first_pixel + lane;
      const int channel = first_channel + i;
      const bool exists = pixel < pixels && channel < p.channels;
      const int64_t from =
          image * p.strides.n + channel * p.strides.c + pixel / p.width * p.strides.h + pixel % p.width * p.strides.w;
      tile[i][lane] = exists ? static_cast<const Element*>(p.from)[from] : gpu::from_float<Element>(0.0f);
    }
    __syncthreads();
    for (int i = warp; i < kRelayoutTile; i += kWarps) {
      const int64_t pixel = first_pixel + i;
      const int channel = first_channel + lane;
      if (pixel >= pixels || channel >= p.padded_channels) continue;
      static_cast<Element*>(p.to)[(image * pixels + pixel) * p.padded_channels + channel] = tile[lane][i];
    }
    __syncthreads();
  }
}

}  // namespace fastvision::conv_cuda
