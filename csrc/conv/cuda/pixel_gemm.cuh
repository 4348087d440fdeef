// The product whose rows are pixels: the forward pass, and grad_input.
#pragma once

#include "conv/cuda/pool_epilogue.cuh"

namespace fastvision::conv_cuda {

struct PixelGemm {
  Image source;
  ImageStrides source_strides;
  // Output (y, x) of the convolution meets the source first at row y * step_h + start_h, column x * step_w + start_w.
  int step_h, step_w, start_h, start_w;
  Walk taps;  // (kernel row, kernel column, channel)
  int depth;
  Matrix weight;  // (depth, columns), columns padded
  PoolEpilogue epilogue;
  int column_tiles;
};

// The anchor of row `row` of a block's tile, one output of the convolution.
__device__ inline Anchor pixel_anchor(const PixelGemm& p, int64_t first_patch, int row) {
  const PoolEpilogue& e = p.epilogue;
  const int number = row / e.tile.conv_w / e.tile.conv_h;
  const Patch patch(e, first_patch + number);
  const int x = row % e.tile.conv_w + patch.out_w * e.stride_w - e.pad_w;
  const int y = row / e.tile.conv_w % e.tile.conv_h + patch.out_h * e.stride_h - e.pad_h;
  if (number >= e.tile.patches || patch.image >= e.batch || y < 0 || y >= e.conv_h || x < 0 || x >= e.conv_w) {
    return {0, kOutside, kOutside};
  }
  const int h = y * p.step_h + p.start_h, w = x * p.step_w + p.start_w;
  return {patch.image * p.source_strides.n + h * p.source_strides.h + w * p.source_strides.w, h, w};
}

template <class Math, Gather gather, int kColumns>
union PixelGemmShared {
  struct {
    Tiles<Math, gather, kColumns> tiles;
    Anchor rows[kTileRows];
  } product;
  struct {
    alignas(32) float results[SliceLayout::kElements];
    PooledPixel pixels[kTileRows];
  } pooling;
};

// Grid: (tiles of rows x tiles of columns), the columns of one tile of rows next to each other.
template <class Math, Gather gather, int kColumns>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Math, kColumns>) pixel_gemm(const PixelGemm p) {
  if constexpr (Math::kCompiled) {
    using Shared = PixelGemmShared<Math, gather, kColumns>;
    GPU_SHARED(Shared, shared);
    const int thread = static_cast<int>(threadIdx.x);
    const int first_column = static_cast<int>(blockIdx.x % p.column_tiles) * kColumns;
    const int64_t first_patch = static_cast<int64_t>(blockIdx.x / p.column_tiles) * p.epilogue.tile.patches;
    Sums<Math, gather, kColumns> sums;
    if (p.depth > 0) {
      shared.product.rows[thread] = pixel_anchor(p, first_patch, thread);
      __syncthreads();
      GatherA<Math, gather> a(p.source, p.taps, 0, p.depth, shared.product.rows);
      LoadB<Math, kColumns> b(p.weight, 0, p.depth, first_column);
      multiply_all(a, b, p.depth, shared.product.tiles, sums);
    }
    __syncthreads();  // the tiles have been read; what follows takes their place
    shared.pooling.pixels[thread] = pooled_pixel(p.epilogue, first_patch, thread);
    for_each_slice(sums, first_column, p.epilogue.columns, shared.pooling.results,
                   SliceLayout::of(p.epilogue.columns_adjacent()),
                   [&](int column, const float* results, SliceLayout layout) {
                     pool_slice<typename Math::Element>(p.epilogue, shared.pooling.pixels, column, results, layout);
                   });
  }
}

}  // namespace fastvision::conv_cuda
