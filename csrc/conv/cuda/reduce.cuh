// Sums over blocks, always in the same order: what the blocks of a split product made, and the
// gradient of the bias.
#pragma once

#include "conv/cuda/tile.cuh"

namespace fastvision::conv_cuda {

// (parts, taps, padded channels, columns) fp32 to the sum over parts, (columns, channels, taps).
struct PartSum {
  const float* parts;
  void* sum;
  int64_t part_count;
  int taps, channels, padded_channels, columns;
};

// Grid: (taps x channels, tiles of 128 columns).
template <class Element>
__global__ void __launch_bounds__(kThreads) sum_parts(const PartSum p) {
  const int channel = static_cast<int>(blockIdx.x % p.channels), tap = static_cast<int>(blockIdx.x / p.channels);
  const int column = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  if (column >= p.columns) return;
  const int64_t row = static_cast<int64_t>(tap) * p.padded_channels + channel;
  const int64_t part_size = static_cast<int64_t>(p.taps) * p.padded_channels * p.columns;
  float sum = 0.0f;
  for (int64_t part = 0; part < p.part_count; ++part) sum += p.parts[part * part_size + row * p.columns + column];
  const int64_t to = (static_cast<int64_t>(column) * p.channels + channel) * p.taps + tap;
  static_cast<Element*>(p.sum)[to] = gpu::from_float<Element>(sum);
}

// The columns of a (lines, padded_columns) matrix, summed over the lines of each part.
struct ColumnSum {
  const void* matrix;
  float* parts;  // (parts, columns)
  int64_t lines, lines_per_part;
  int columns, padded_columns;
};

// Grid: (parts, tiles of 32 columns).
template <class Element>
__global__ void __launch_bounds__(kThreads) sum_columns(const ColumnSum p) {
  using WarpSums = float[kWarps][kLanes];
  GPU_SHARED(WarpSums, warp_sums);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int column = static_cast<int>(blockIdx.y) * kLanes + lane;
  const int64_t begin = blockIdx.x * p.lines_per_part;
  const int64_t end = begin + p.lines_per_part < p.lines ? begin + p.lines_per_part : p.lines;
  float sum = 0.0f;
  for (int64_t line = begin + warp; line < end && column < p.columns; line += kWarps) {
    sum += gpu::to_float(static_cast<const Element*>(p.matrix)[line * p.padded_columns + column]);
  }
  warp_sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= p.columns) return;
  for (int other = 1; other < kWarps; ++other) sum += warp_sums[other][lane];
  p.parts[static_cast<int64_t>(blockIdx.x) * p.columns + column] = sum;
}

}  // namespace fastvision::conv_cuda
