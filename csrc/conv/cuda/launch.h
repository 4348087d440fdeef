// The matrix products, one translation unit for each way of multiplying.
#pragma once

#include <climits>

#include "conv/cuda/pixel_gemm.cuh"
#include "conv/cuda/weight_gemm.cuh"

namespace fastvision::conv_cuda {

// As gpu::launch, for grids that may be empty, where there is nothing to do, or too large.
template <auto Kernel, class Parameters>
const char* launch_grid(int64_t x, int64_t y, dim3 block, void* stream, const Parameters& parameters) {
  if (x == 0 || y == 0) return nullptr;
  if (x > INT_MAX || y > 65535) return "the problem is too large for one kernel launch";
  return gpu::launch<Kernel>(dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), block, stream, parameters);
}

// `row_tiles` blocks of pixels; sets column_tiles. `vectors`: the source's channels are adjacent, and 16
// bytes of them can be read at once.
template <class Math>
const char* launch_pixel_gemm(PixelGemm p, int64_t row_tiles, bool vectors, int multiprocessors, void* stream);

template <class Math>
const char* launch_weight_gemm(WeightGemm p, int64_t parts, void* stream);

// Columns of a tile of the product: half as many where there would be too few blocks, or too few columns.
inline int tile_columns(int columns, int64_t row_tiles, int multiprocessors) {
  constexpr int kWide = 2 * kSliceColumns;
  const bool enough_blocks = row_tiles * ceil_div(columns, kWide) >= multiprocessors;
  return columns > kSliceColumns && enough_blocks ? kWide : kSliceColumns;
}

// The width that launch_weight_gemm uses, for those who count its tiles.
inline int weight_tile_columns(int columns) {
  return columns > kSliceColumns ? 2 * kSliceColumns : kSliceColumns;
}

}  // namespace fastvision::conv_cuda
