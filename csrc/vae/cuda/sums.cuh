// Sums over tensors, in the same order on every device: fp32 and pairwise over the elements of a thread, so that equal
// ones add up exactly; fp64 over the threads of a block, and over the blocks in a kernel that follows.
#pragma once

#include "core/context.h"
#include "vae/cuda/pieces.cuh"

namespace fastvision::vae_cuda {

constexpr int kLanes = 32;  // of a warp
constexpr int kSumThreads = 1024;

template <int count>
__device__ __forceinline__ float pairwise_sum(float (&values)[count]) {
#pragma unroll
  for (int half = count / 2; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < half; ++j) values[j] = values[2 * j] + values[2 * j + 1];
  }
  return values[0];
}

__device__ __forceinline__ double sum_over_warp(double value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// For the threads of the first warp.
template <int threads>
__device__ __forceinline__ double sum_over_block(double value) {
  constexpr int kWarps = threads / kLanes;
  using WarpSums = double[kWarps];
  GPU_SHARED(WarpSums, warp_sums);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  value = sum_over_warp(value);
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  if (warp > 0) return 0.0;
  return sum_over_warp(lane < kWarps ? warp_sums[lane] : 0.0);
}

// A sum over all blocks of a grid: of each block what it adds, or, where there is only one, all of it.
struct GridSum {
  double* blocks;
  void* total;

  // `value` is the thread's.
  template <class Element>
  __device__ __forceinline__ void add(double value, double scale) const {
    const double sum = scale * sum_over_block<kThreads>(value);
    if (threadIdx.x > 0) return;
    if (gridDim.x == 1) {
      *static_cast<Element*>(total) = gpu::from_float<Element>(static_cast<float>(sum));
    } else {
      blocks[blockIdx.x] = sum;
    }
  }
};

template <class Element>
__global__ void __launch_bounds__(kSumThreads) sum_blocks(const GridSum p, int64_t count) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += p.blocks[i];
  sum = sum_over_block<kSumThreads>(sum);
  if (threadIdx.x == 0) *static_cast<Element*>(p.total) = gpu::from_float<Element>(static_cast<float>(sum));
}

inline GridSum begin_sum(int64_t blocks, void* total, Context& context) {
  return {blocks > 1 ? static_cast<double*>(context.allocate(sizeof(double) * blocks)) : nullptr, total};
}

template <class Element>
const char* finish_sum(const GridSum& sum, int64_t blocks, Context& context) {
  if (blocks == 1) return nullptr;
  return gpu::launch<sum_blocks<Element>>(dim3(1), dim3(kSumThreads), context.stream(), sum, blocks);
}

}  // namespace fastvision::vae_cuda
