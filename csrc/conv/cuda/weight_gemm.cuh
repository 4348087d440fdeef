// The product whose depth is the pixels of the convolution's output: grad_weight. Its depth is long
// and its rows and columns few, so it is split over blocks, whose parts reduce.cuh adds up.
#pragma once

#include "conv/cuda/multiply.cuh"

namespace fastvision::conv_cuda {

struct WeightGemm {
  Image source;  // the convolution's input, channels adjacent and padded
  Walk pixels;   // (image, row, column) of the convolution's output; starts at start_h, start_w of the input
  int start_h, start_w;
  int64_t start_offset;
  int64_t pixel_count, pixels_per_split;
  Walk taps;  // (kernel row, kernel column, channel)
  int rows;   // taps x padded channels
  int row_tiles;
  Matrix grad_conv;  // (pixels, out channels), channels padded
  int columns;       // out channels
  float* parts;      // (splits, rows, columns)
};

__device__ inline Anchor tap_anchor(const WeightGemm& p, int row) {
  Anchor anchor = Walker(p.taps, row, p.rows).anchor();
  anchor.offset += p.start_offset;
  anchor.h += p.start_h;
  anchor.w += p.start_w;
  return anchor;
}

template <class Math, int kColumns>
union WeightGemmShared {
  struct {
    Tiles<Math, Gather::along_rows, kColumns> tiles;
    Anchor rows[kTileRows];
  } product;
  alignas(32) float results[SliceLayout::kElements];
};

// Grid: (tiles of rows x tiles of columns, splits of the depth).
template <class Math, int kColumns>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Math, kColumns>) weight_gemm(const WeightGemm p) {
  if constexpr (Math::kCompiled) {
    using Shared = WeightGemmShared<Math, kColumns>;
    GPU_SHARED(Shared, shared);
    const int thread = static_cast<int>(threadIdx.x);
    const int first_row = static_cast<int>(blockIdx.x % p.row_tiles) * kTileRows;
    const int first_column = static_cast<int>(blockIdx.x / p.row_tiles) * kColumns;
    const int64_t begin = blockIdx.y * p.pixels_per_split;
    const int64_t end = begin + p.pixels_per_split < p.pixel_count ? begin + p.pixels_per_split : p.pixel_count;
    Sums<Math, Gather::along_rows, kColumns> sums;
    shared.product.rows[thread] = tap_anchor(p, first_row + thread);
    __syncthreads();
    GatherA<Math, Gather::along_rows> a(p.source, p.pixels, begin, end, shared.product.rows);
    LoadB<Math, kColumns> b(p.grad_conv, begin, end, first_column);
    multiply_all(a, b, end - begin, shared.product.tiles, sums);

    float* part = p.parts + static_cast<int64_t>(blockIdx.y) * p.rows * p.columns;
    for_each_slice(sums, first_column, p.columns, shared.results, SliceLayout::of(true),
                   [&](int slice_column, const float* results, SliceLayout layout) {
                     for (int i = thread; i < kTileRows * kSliceColumns; i += kThreads) {
                       const int row = i / kSliceColumns, column = i % kSliceColumns;
                       if (first_row + row >= p.rows || slice_column + column >= p.columns) continue;
                       part[static_cast<int64_t>(first_row + row) * p.columns + slice_column + column] =
                           results[row * layout.row_stride + column * layout.column_stride];
                     }
                   });
  }
}

}  // namespace fastvision::conv_cuda
