// Definitions behind launch.h, to be instantiated for one way of multiplying.
#pragma once

#include "conv/cuda/launch.h"

namespace fastvision::conv_cuda {

template <class Math, Gather gather, int kColumns>
const char* launch_pixel_gemm_as(PixelGemm p, int64_t row_tiles, void* stream) {
  p.column_tiles = static_cast<int>(ceil_div(p.epilogue.columns, kColumns));
  return launch_grid<pixel_gemm<Math, gather, kColumns>>(row_tiles * p.column_tiles, 1, dim3(kThreads), stream, p);
}

template <class Math, Gather gather>
const char* launch_pixel_gemm_from(const PixelGemm& p, int64_t row_tiles, int multiprocessors, void* stream) {
  if (tile_columns(p.epilogue.columns, row_tiles, multiprocessors) == kSliceColumns) {
    return launch_pixel_gemm_as<Math, gather, kSliceColumns>(p, row_tiles, stream);
  }
  return launch_pixel_gemm_as<Math, gather, 2 * kSliceColumns>(p, row_tiles, stream);
}

template <class Math>
const char* launch_pixel_gemm(PixelGemm p, int64_t row_tiles, bool vectors, int multiprocessors, void* stream) {
  return vectors ? launch_pixel_gemm_from<Math, Gather::along_depth>(p, row_tiles, multiprocessors, stream)
                 : launch_pixel_gemm_from<Math, Gather::single>(p, row_tiles, multiprocessors, stream);
}

template <class Math>
const char* launch_weight_gemm(WeightGemm p, int64_t parts, void* stream) {
  const int columns = weight_tile_columns(p.columns);
  const int64_t tiles = p.row_tiles * ceil_div(p.columns, columns);
  return columns == kSliceColumns
             ? launch_grid<weight_gemm<Math, kSliceColumns>>(tiles, parts, dim3(kThreads), stream, p)
             : launch_grid<weight_gemm<Math, 2 * kSliceColumns>>(tiles, parts, dim3(kThreads), stream, p);
}

}  // namespace fastvision::conv_cuda
